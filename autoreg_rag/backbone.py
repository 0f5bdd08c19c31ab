"""A causal language model on a device, with an adapter that can be switched off."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from autoreg_rag import pretrained
from autoreg_rag.base import (
    check_complete,
    find_folder,
    greedy_settings,
    hash_of_base,
    read_model,
    read_tokenizer,
    weight_files,
)
from autoreg_rag.device import choose_device, choose_dtype
from autoreg_rag.errors import ModelError, as_model_error
from autoreg_rag.head import Head, measured_scale
from autoreg_rag.lora import fuse

_ADAPTER_SETTINGS = ("r", "lora_alpha", "use_rslora", "use_dora", "alpha_pattern", "rank_pattern")


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
    logit_scale
        What the head's logits are multiplied by.
    lock
        Held while the adapter is off, and during each of the encoder's passes, so that
        threads that share a model do not switch it under each other.
    """

    name: str
    language_model: PreTrainedModel | PeftModel
    tokenizer: Tokenizer
    base_hash: str
    logit_scale: float = 1.0
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind, which no copy and no other process can share."""
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.RLock())

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        attention: str | None = None,
        base_hash: str | None = None,
        folder: Path | None = None,
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
        folder
            Where `find_folder` found it, if it was asked before.

        Raises
        ------
        ModelError
            The model is not there, is not a causal LM that transformers itself has the
            code of, is incomplete, or has no safe weights.
        """
        place = choose_device(device)
        kind = choose_dtype(dtype, place)
        name = name or pretrained.DEFAULT_BASE.name
        folder = folder or find_folder(name)
        files = weight_files(folder)
        tokenizer = read_tokenizer(folder, name)
        model = read_model(folder, kind, attention)
        model.requires_grad_(False).eval().to(place)
        model.generation_config = greedy_settings(model.generation_config, tokenizer)
        backbone = cls(name, model, tokenizer, base_hash or hash_of_base(folder, files))
        if name != pretrained.DEFAULT_BASE.name:  # which is known to be one
            with as_model_error(f"{folder} cannot be used"):
                backbone._try()
        return backbone

    @torch.inference_mode()
    def _try(self) -> None:
        """Read a few tokens, to see that the model is one that this package can work with."""
        ids = torch.arange(4, device=self.device) % len(self.input_weight)
        inputs = self.embed(ids)[None]
        other = torch.cat([inputs[:, :-1], -inputs[:, -1:]], dim=1)
        pair = torch.cat([inputs, other])
        hidden = self.body(inputs_embeds=pair, use_cache=False).last_hidden_state
        if not hidden.isfinite().all():
            name = str(self.dtype).removeprefix("torch.")
            raise ModelError(
                f"its numbers are not finite in {name}: choose another dtype, such as float32"
            )
        if hidden.shape[-1] != inputs.shape[-1]:  # what is generated could not be read
            raise ModelError("its hidden states and its input vectors are not of one length")
        before = hidden[:, :-1].float()
        if (before[0] - before[1]).abs().mean() > 0.01 * before.abs().mean():
            raise ModelError("its tokens see what comes after them, so it is no causal LM")
        self.logit_scale = measured_scale(self.language_model, inputs, hidden[:1])

    def attach(self, folder: Path) -> None:
        """Put the LoRA adapter in `folder` on the LLM.

        Raises
        ------
        ModelError
            The adapter is damaged, or does not fit this LLM.
        """
        file = folder / "adapter_model.safetensors"
        if not file.is_file():  # peft would take a pickle, or ask a hub
            raise ModelError(f"the adapter in {folder} cannot be used: there is no {file.name}")
        with as_model_error(f"the adapter in {folder} cannot be used"), warnings.catch_warnings():
            with safe_open(file, "pt") as parts:
                names = set(parts.keys())
            # peft asks transformers a question by a name that goes away in version 6.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            # In the LLM's own format: a mixture costs a conversion of all activations.
            adapted = PeftModel.from_pretrained(
                self.language_model, folder, autocast_adapter_dtype=False
            )
        kinds = {settings.peft_type for settings in adapted.peft_config.values()}
        if kinds != {PeftType.LORA}:
            raise ModelError(f"the adapter in {folder} cannot be used: it is not of the type LORA")
        needed = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
        check_complete(f"the adapter in {folder}", needed - names)
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
        """Be the frozen base, exactly, inside the block; other threads wait."""
        model = self.language_model
        if not isinstance(model, PeftModel):
            yield
            return
        with self.lock:
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
    def head(self) -> Head:
        """What makes logits of last hidden states."""
        return Head.of(self.language_model, self.logit_scale)

    @property
    def hidden_size(self) -> int:
        """d, the length of an input vector and of a last hidden state."""
        return self.input_weight.shape[1]

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
