"""GGUF files, de-quantised once into a folder that loads like any other model."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from autoreg_rag.errors import ModelError
from autoreg_rag.files import sha256, whole_folder
from autoreg_rag.pretrained import cache_folder

logger = logging.getLogger(__name__)


def dequantised(path: Path) -> Path:
    """Return the folder with a GGUF file's model in bfloat16, converting it the first time.

    The folder lies in the cache, named by the file's hash. bfloat16 rounds by
    at most 1/256, far below the quantisation's own error, and halves the disk
    and the time to load.

    Raises
    ------
    ModelError
        The file is not a GGUF file of a causal LM that transformers knows.
    """
    folder = cache_folder() / f"{path.stem}-{sha256(path)[:16]}"
    if folder.is_dir():
        return folder
    cache_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            logger.warning("de-quantising %s (once)", path.name)
            with whole_folder(folder) as temporary:
                _convert(path, temporary)
    return folder


def _convert(path: Path, folder: Path) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        quantised = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    except Exception as error:  # a damaged file fails in the reader in any way there is
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path} cannot be read as a GGUF causal LM: {reason}") from error
    # transformers refuses to save a model that still counts as quantised, so
    # the weights move into a fresh one. `_name_or_path` is the GGUF's own label.
    config.quantization_config = None
    del config.quantization_config
    config.name_or_path = path.stem
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
