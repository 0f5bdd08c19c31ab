"""Models that the tests share: tiny random ones of several families, and the real default."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from autoreg_rag.errors import ModelError
from autoreg_rag.model import AutoRegModel
from autoreg_rag.pretrained import DEFAULT_BASE

# No example is timed: machines differ, and tests run beside each other.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SIZES = {
    "vocab_size": 600,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen": Qwen2Config(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=16),
    "gemma": Gemma2Config(**SIZES, sliding_window=16, query_pre_attn_scalar=8),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a small byte-level BPE tokenizer on real text; its padding is its end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"],
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(topics.values(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny random causal LMs, by family."""
    tokenizer = make_tokenizer()
    folders = {}
    for family, config in FAMILIES.items():
        torch.manual_seed(7)
        folders[family] = tmp_path_factory.mktemp(family)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # larger than at the start of training, so that texts differ
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(6)
        model.save_pretrained(folders[family])
        tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="session")
def tiny_folder(tiny_folders: dict[str, Path]) -> Path:
    """Folder of a tiny random Llama."""
    return tiny_folders["llama"]


@pytest.fixture
def tiny_model(tiny_folder: Path) -> AutoRegModel:
    """A tiny random Llama with untrained compress tokens, fresh for each test."""
    return AutoRegModel.from_pretrained(tiny_folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def real_model() -> AutoRegModel:
    """The default model, in float32; where it cannot be had, tests skip, but not in CI."""
    return real(None)


@pytest.fixture
def real_base() -> AutoRegModel:
    """The default model's base with untrained compress tokens, fresh for each test."""
    return real(DEFAULT_BASE.name)


def real(name: str | None) -> AutoRegModel:
    """Load a model that is fetched the first time."""
    try:
        return AutoRegModel.from_pretrained(name, dtype="float32", device="cpu")
    except ModelError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the default model cannot be had here: {error}")
