"""GGUF files, de-quantised once into a folder that loads like any other model."""

from __future__ import annotations

import logging
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from autoreg_rag.errors import ModelError, first_line
from autoreg_rag.files import sha256, whole_folder, write_whole
from autoreg_rag.pretrained import cache_folder, cache_lock

logger = logging.getLogger(__name__)

_SOURCE_FILE = "gguf.sha256"

_CONVERSION = "1"
"""Part of a converted folder's name: raise it when a file is converted differently, by the code
here or by the oldest transformers that the project takes.

The installed release is not a part: an update would leave a copy of all weights behind, and
could move the vectors of an index, whose fingerprint knows the GGUF file alone.
"""


def converted_folder(path: Path, hash_: str) -> Path:
    """Return where the model of a GGUF file with this SHA-256 is kept, once converted."""
    return cache_folder() / f"{path.stem}-{hash_[:16]}-{_CONVERSION}"


def source_hash(folder: Path) -> str | None:
    """Return the SHA-256 of the GGUF file that a folder was converted from, if it was."""
    file = folder / _SOURCE_FILE
    # A copy elsewhere may have been changed since.
    if folder.parent != cache_folder() or not file.is_file():
        return None
    return file.read_text().strip()


def dequantised(path: Path) -> Path:
    """Return the folder with a GGUF file's model in bfloat16, converting it the first time.

    The folder lies in the cache, named by the file's hash and `_CONVERSION`. bfloat16 halves the
    disk and the time to load. Its rounding, at most 1/256, is well below the
    error of quantisation to 6 bits or fewer; a GGUF file of 16 or 32 bits loses
    precision here, and is better loaded from the folder that it was made from.

    Raises
    ------
    ModelError
        The file is not a GGUF file of a causal LM that transformers knows, or
        the cache cannot be written.
    """
    try:
        hash_ = sha256(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    folder = converted_folder(path, hash_)
    if folder.is_dir():
        return folder
    with cache_lock(folder.name):
        if not folder.is_dir():
            logger.warning("de-quantising %s (once)", path.name)
            for left in folder.parent.glob(f".{folder.name}.*"):  # of a killed process
                shutil.rmtree(left)
            with whole_folder(folder) as temporary:
                _convert(path, temporary)
                write_whole(temporary / _SOURCE_FILE, f"{hash_}\n".encode())
    return folder


def _convert(path: Path, folder: Path) -> None:
    try:
        # What lies beside the file may name code of its own, see `Backbone.load`.
        source: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
        config = AutoConfig.from_pretrained(path.parent, **source)
        quantised = AutoModelForCausalLM.from_pretrained(
            path.parent,
            **source,
            config=deepcopy(config),  # read once: the file's header takes seconds
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    except Exception as error:  # a damaged file fails in the reader in any way there is
        raise ModelError(
            f"{path} cannot be read as a GGUF causal LM: {first_line(error)}"
        ) from error
    # Not by the model's save_pretrained: it refuses a model that still counts as quantised,
    # and of several processes writes in the first alone, while the one that converts is the
    # one that came first to the lock.
    tied = quantised.all_tied_weights_keys
    weights = {name: value for name, value in quantised.state_dict().items() if name not in tied}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.quantization_config = None
    del config.quantization_config
    config.name_or_path = path.stem
    config.architectures = [type(quantised).__name__]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    quantised.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
