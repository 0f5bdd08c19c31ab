"""The base of a model: where a causal LM lies, its tokenizer, its weights and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from autoreg_rag import pretrained
from autoreg_rag.config import read_config
from autoreg_rag.errors import ModelError, ModelNotFoundError, as_model_error, first_line
from autoreg_rag.files import expanded, is_there, sha256
from autoreg_rag.gguf_file import converted_folder, dequantised, source_hash

_HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
_HUB_COPIES = ["consolidated*", "onnx/*", "original/*"]
"""The same weights once more, in other layouts."""

_INCIDENTAL = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"}
"""Keys of a base's ``config.json`` that do not change what it computes."""


def find_folder(name: str) -> Path:
    """Return the local folder of a model, fetched or converted the first time.

    Raises
    ------
    ModelNotFoundError
        Nothing by this name is there.
    ModelError
        A GGUF file cannot be read, or the default base not be fetched.
    """
    if name == pretrained.DEFAULT_BASE.name:
        base = pretrained.DEFAULT_BASE
        folder = converted_folder(Path(base.member), base.member_sha256)
        return folder if folder.is_dir() else dequantised(pretrained.fetch(base))
    if not name:
        raise ModelError("the model's name is empty")
    path = expanded(name)
    if is_there(path) and path.is_dir():
        return path
    if path.suffix == ".gguf":
        if not is_there(path):
            raise ModelNotFoundError(f"there is no file {path}")
        return dequantised(path)
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_COPIES))
    except (HFValidationError, ValueError) as error:
        raise ModelNotFoundError(
            f"{name!r} is neither a folder, a GGUF file nor a hub id"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelNotFoundError(
            f"{name!r} is no local folder or GGUF file, and no hub served it: {first_line(error)}"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers reads a base's weights from, and no other copies.

    Raises
    ------
    ModelError
        There are none, or their index is damaged.
    """
    whole, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise ModelError(
            f"{folder} has no {whole.name}; other formats can run code when loaded, so convert "
            "the model first"
        )
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
        return [folder / name for name in sorted(names)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged: {first_line(error)}") from error


def read_tokenizer(folder: Path, name: str) -> Tokenizer:
    """Read a base's tokenizer, and let it take every text as it is.

    Raises
    ------
    ModelError
        There is none that is fast and ends a text, or it is damaged.
    """
    try:
        # A folder's own code never runs; unless told so, transformers asks on the terminal.
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a damaged file can be wrong in any way
        raise ModelError(
            f"{folder} cannot be loaded: its tokenizer: {first_line(error)}"
        ) from error
    if not (tokenizer.is_fast and (folder / "tokenizer.json").is_file()):
        raise ModelError(f"{folder} has no fast tokenizer (tokenizer.json)")
    backend: Any = tokenizer.backend_tokenizer
    # A text that spells a special token is text all the same.
    backend.encode_special_tokens = True
    # What a training left in tokenizer.json would fill up and cut texts.
    backend.no_padding()
    backend.no_truncation()
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer in {folder} has no end-of-sequence token")
    base = pretrained.DEFAULT_BASE
    if name == base.name and tokenizer.eos_token != base.eos_token:
        # Releases of transformers differ in what they take it for.
        raise ModelError(
            f"the end-of-sequence token in {folder} is {tokenizer.eos_token}, and that of "
            f"{name} is {base.eos_token}: upgrade transformers, and delete the folder"
        )
    return tokenizer


def read_model(folder: Path, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
    """Read a base's weights, all of them.

    Raises
    ------
    ModelError
        They are damaged, incomplete, or not of a causal LM.
    """
    with as_model_error(f"{folder} cannot be loaded as a causal LM"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model: PreTrainedModel = loaded[0]
    # transformers would go on with random numbers in the place of what is missing.
    lacking = [loaded[1][kind] for kind in ("missing_keys", "mismatched_keys")]
    check_complete(f"the weights in {folder}", *lacking)
    return model


def greedy_settings(settings: GenerationConfig | None, tokenizer: Tokenizer) -> GenerationConfig:
    """Return what ends a generation, and nothing else of what a base's author liked."""
    ends = getattr(settings, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    ends = [id_ for id_ in dict.fromkeys([*ends, tokenizer.eos_token_id]) if id_ is not None]
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.eos_token_id,
    )


def check_complete(what: str, *lacking: Collection[Any]) -> None:
    """Refuse weights that lack some of their parts.

    Raises
    ------
    ModelError
        One of the collections of parts that are lacking is not empty.
    """
    missing = [str(name) for names in lacking for name in names]
    if missing:
        raise ModelError(
            f"{what} are incomplete: {len(missing)} parts are missing or of another shape, "
            f"such as {min(missing)}"
        )


def hash_of_base(folder: Path, weights: list[Path]) -> str:
    """Hash what a base computes with: weights, architecture, tokenizer."""
    if known := source_hash(folder):
        return known
    settings = read_config(folder) or {}
    kept = {key: value for key, value in settings.items() if key not in _INCIDENTAL}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for file in [*weights, folder / "tokenizer.json"]:
        digest.update(f"{file.name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()
