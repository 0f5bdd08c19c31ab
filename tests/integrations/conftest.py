"""What the tests of both frameworks share: tiny models with adapters, and their indexes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from autoreg_rag.corpus import Chunker
from autoreg_rag.index.indexer import Indexer
from autoreg_rag.model import AutoRegModel
from autoreg_rag.stores import Manifest, create_store


@pytest.fixture(scope="session")
def save_adapted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """Save a tiny model whose adapter depends on a seed; each call makes a new folder."""

    def save(seed: int) -> Path:
        model = AutoRegModel.from_pretrained(tiny_folder, dtype="float32", device="cpu")
        torch.manual_seed(seed)
        settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
        lora = get_peft_model(model.backbone.language_model, settings).eval()
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        model.backbone.language_model = lora
        folder = tmp_path_factory.mktemp(f"adapted-{seed}") / "model"
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def model_folder(save_adapted) -> Path:
    return save_adapted(1)


@pytest.fixture(scope="session")
def other_folder(save_adapted) -> Path:
    """The same base with another adapter."""
    return save_adapted(2)


@pytest.fixture(scope="session")
def model(model_folder: Path) -> AutoRegModel:
    """What the integrations' results are compared with."""
    return AutoRegModel.from_pretrained(model_folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def how(model_folder: Path) -> dict[str, str]:
    """The settings of `model`."""
    return {"model_name": str(model_folder), "dtype": "float32", "device": "cpu"}


TEXTS = {
    "sea.txt": "Whales are mammals that live in the sea. " * 30,
    "bread.md": "# Bread\n\nBread is baked from flour, water and salt.\n",
    "deep/code.txt": "A compiler turns source code into machine code.",
    # Two of its fields are named like something of ours.
    "rows.jsonl": '{"text": "Tulips grow from bulbs.", "year": 1999, "topic": "garden", '
    '"start": 12.5, "doc_id": "17"}\n'
    '{"text": "Roses grow on bushes.", "year": 2001, "topic": "garden"}\n',
}


@pytest.fixture(scope="session")
def make_index():
    """Make an index of a small corpus, by the pipeline."""

    def make(kind: str, model: AutoRegModel, folder: Path) -> Path:
        for name, text in TEXTS.items():
            path = folder / "corpus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        chunker = Chunker(model.backbone.tokenizer.backend_tokenizer, 48, 8)
        manifest = Manifest(model.fingerprint(), model.reference, model.dimension)
        with create_store(kind, folder / "index", manifest) as store:
            Indexer(model, store, chunker).run(folder / "corpus")
        return folder / "index"

    return make


@pytest.fixture(scope="session", params=["faiss", "qdrant"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def index_folder(kind, make_index, model, tmp_path_factory) -> Path:
    """An index made with the tiny model."""
    return make_index(kind, model, tmp_path_factory.mktemp(f"index-{kind}"))


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the documents index, in a working directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "penguins.txt").write_text("Penguins live on the coasts of Antarctica.")
    (folder / "bread.md").write_text("# Bread\n\nBread is baked from flour, water and salt.")
    (folder / "years.jsonl").write_text('{"text": "The bakery opened in spring.", "year": 1999}')
    return folder
