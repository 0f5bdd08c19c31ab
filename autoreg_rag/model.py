"""AutoRegEmbed: texts to k vectors and back, with one causal language model.

Source of the method: Deng et al., "Following the Autoregressive Nature of LLM
Embeddings via Compression and Alignment", EMNLP 2025 (arXiv 2502.11401).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import HfApi
from numpy.typing import NDArray
from torch import Tensor, nn

from autoreg_rag.backbone import Backbone
from autoreg_rag.base import find_folder
from autoreg_rag.config import AutoRegConfig, is_model_folder
from autoreg_rag.decoder import Decoder
from autoreg_rag.encoder import Encoder
from autoreg_rag.errors import ModelError, ModelNotFoundError, first_line
from autoreg_rag.files import expanded, is_there, whole_folder
from autoreg_rag.model_card import write_model_card
from autoreg_rag.neck import Neck
from autoreg_rag.pretrained import DEFAULT_MODEL
from autoreg_rag.truncation import Truncation

logger = logging.getLogger(__name__)

DEFAULT = "default"
"""The name of the model that is loaded when none is named."""

ADAPTER_FOLDER = "adapter"
ENCODER_FOLDER = "encoder"

TOKEN_BUDGETS = {"cpu": 2048, "mps": 8192, "cuda": 65536}
"""Tokens of a batch by device. On a CPU the activations should stay in its cache."""


class AutoRegModel(nn.Module):
    """A causal LM in two roles: trained, the encoder; frozen, the decoder.

    With an adapter one set of weights serves both: adapter on, the encoder;
    adapter off, the decoder. A model whose weights are all trained keeps the
    frozen ones beside them. Build it with `from_pretrained`.

    Parameters
    ----------
    config
        Settings saved with the model.
    backbone
        The causal LM; with an adapter its ``language_model`` is a `PeftModel`.
    neck
        Compress tokens and bridge.
    tuned
        The encoder's own weights, where they are not `backbone`'s with an adapter.
    reference
        The name by which `from_pretrained` finds the model again.
    token_budget
        The most tokens of a batch, padding included; by default the device's.

    Raises
    ------
    ModelError
        `config` was made for another base, or the token budget is below 1.
    """

    def __init__(
        self,
        config: AutoRegConfig,
        backbone: Backbone,
        neck: Neck,
        *,
        tuned: Backbone | None = None,
        reference: str = DEFAULT,
        token_budget: int | None = None,
    ) -> None:
        super().__init__()
        if config.base_hash != backbone.base_hash:
            raise ModelError(
                f"the model was made for base {config.base_model} with hash "
                f"{config.base_hash[:12]}, and {backbone.name} has {backbone.base_hash[:12]}"
            )
        if token_budget is not None and token_budget < 1:
            raise ModelError(f"the token budget is {token_budget}; it must be 1 or more")
        self.config = config
        self.backbone = backbone
        self.tuned = tuned
        self.language_model = backbone.language_model
        self.tuned_model = tuned and tuned.language_model
        self.neck = neck.to(backbone.device)
        self.reference = reference
        self.token_budget = token_budget or TOKEN_BUDGETS.get(backbone.device.type, 8192)
        truncation = Truncation(config, backbone)
        self.encoder = Encoder(config, tuned or backbone, neck, truncation)
        self.decoder = Decoder(backbone, neck, truncation)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        attention: str | None = None,
        token_budget: int | None = None,
        **settings: Any,
    ) -> AutoRegModel:
        """Load a model that `save_pretrained` wrote, or start one on any causal LM.

        Parameters
        ----------
        name
            Nothing for the default model; else a folder, a GGUF file or a hub
            id, of a saved model or of a causal LM (Llama, Qwen, Mistral, Gemma
            ...). On a bare causal LM the compress tokens are untrained.
        device, dtype, attention
            See `Backbone.load`; chosen by what this machine is good at.
        token_budget
            The most tokens of a batch.
        **settings
            Fields of `AutoRegConfig` to change, such as ``max_length``, or ``base_model``
            where the base of a saved model has moved.

        Raises
        ------
        ModelError
            The model cannot be found or loaded, or is bound to another base.
        """
        how: dict[str, Any] = {"device": device, "dtype": dtype, "attention": attention}
        reference = full_name(name)
        folder = DEFAULT_MODEL if reference == DEFAULT else find_folder(reference)
        tuned = None
        if is_model_folder(folder):
            config = dataclasses.replace(AutoRegConfig.load(folder), **settings)
            try:
                base = find_folder(config.base_model)
            except ModelNotFoundError as error:
                raise ModelError(
                    f"the base of the model {reference}: {error}; if it has moved, say where to "
                    "by base_model, here or in the model's config.json"
                ) from error
            backbone = Backbone.load(config.base_model, folder=base, **how)
            neck = Neck.load(folder, shape=(config.num_compress_tokens, backbone.hidden_size))
            if (folder / ADAPTER_FOLDER).is_dir():
                backbone.attach(folder / ADAPTER_FOLDER)
            if (own := folder / ENCODER_FOLDER).is_dir():
                tuned = Backbone.load(str(own), base_hash=backbone.base_hash, **how)
        else:
            backbone = Backbone.load(reference, folder=folder, **how)
            config = AutoRegConfig(backbone.name, backbone.base_hash, **settings)
            neck = Neck.untrained(backbone, config.num_compress_tokens)
            logger.warning(
                "%s: its compress tokens are untrained, so it retrieves, but weakly", backbone.name
            )
        return cls(
            config, backbone, neck, tuned=tuned, reference=reference, token_budget=token_budget
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model into a folder that does not exist yet, or is empty.

        The base is not copied: the folder names it and holds its hash.

        Raises
        ------
        ModelError
            The folder exists and is not empty, or cannot be written.
        """
        path = Path(folder)
        try:
            if path.exists() and any(path.iterdir()):
                raise FileExistsError  # before all that work
            with whole_folder(path) as temporary:
                self._write(temporary)
        except FileExistsError as error:
            raise ModelError(f"{path} exists and is not empty; choose another folder") from error
        except OSError as error:
            raise ModelError(f"{path} cannot be written: {error}") from error

    def push_to_hub(self, repository: str, *, private: bool = True) -> str:
        """Upload the model to a hub and return its address there.

        Parameters
        ----------
        repository
            ``owner/name``; created if it is not there.
        private
            Whether a repository that is created can be read by its owner only.

        Raises
        ------
        ModelError
            The hub cannot be reached, or refuses.
        """
        api = HfApi()
        with TemporaryDirectory() as temporary:
            self._write(Path(temporary))
            try:
                api.create_repo(repository, private=private, exist_ok=True)
                return str(api.upload_folder(repo_id=repository, folder_path=temporary))
            except Exception as error:  # the client passes on its HTTP library's errors
                raise ModelError(
                    f"{repository} could not be uploaded: {first_line(error)}"
                ) from error

    def _write(self, folder: Path) -> None:
        self.config.save(folder)
        self.neck.save(folder)
        self.backbone.save_adapter(folder / ADAPTER_FOLDER)
        if self.tuned is not None:
            self.tuned.save(folder / ENCODER_FOLDER)
        write_model_card(folder, self.config, self.fingerprint())

    @property
    def name(self) -> str:
        """The base and how far it is trained, for people."""
        return f"{Path(self.backbone.name).name}, {self.config.stage}"

    @property
    def dimension(self) -> int:
        """The length of an embedding."""
        vectors = self.config.num_compress_tokens if self.config.pooling == "concat" else 1
        return vectors * self.backbone.hidden_size

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with anything that changes a vector.

        They cover the base (weights, architecture, tokenizer, the tokens that begin and
        end a text), the adapter or the encoder's own weights, the compress tokens, and the
        settings that `AutoRegConfig.vector_settings` names; not device, number format or
        batch size, which move a vector only by rounding.
        """
        tokenizer = self.backbone.tokenizer
        ends = [tokenizer.bos_token_id, tokenizer.eos_token_id]
        settings = [self.config.vector_settings(), self.backbone.adapter_settings(), ends]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        parameters = self.backbone.adapter_parameters()
        if self.tuned is not None:
            parameters += self.tuned.language_model.named_parameters()
        for name, parameter in parameters:
            digest.update(name.encode())
            # As `Backbone` rounds it in a file, so that a saved model keeps its fingerprint,
            # and then as loading it in float16 does, which holds no number below 6e-8.
            digest.update(_bytes(parameter.bfloat16().half()))
        digest.update(_bytes(self.neck.compress_tokens))
        return digest.hexdigest()[:16]

    def encode_queries(
        self, texts: Sequence[str], *, show_progress: bool = False
    ) -> NDArray[np.float32]:
        """Embed questions: under I_next, "the text that answers this".

        Parameters
        ----------
        texts
            n questions. A text over ``config.max_length`` tokens is cut, with
            one warning.
        show_progress
            Draw a progress bar on standard error.

        Returns
        -------
        ndarray
            float32 [n, d], of unit length, in the order of `texts`.
        """
        return self._embed(texts, self.config.query_instruction, show_progress)

    def encode_documents(
        self, texts: Sequence[str], *, show_progress: bool = False
    ) -> NDArray[np.float32]:
        """Embed passages: under I_self, "this text itself".

        Parameters and result are those of `encode_queries`.
        """
        return self._embed(texts, self.config.document_instruction, show_progress)

    def _embed(
        self, texts: Sequence[str], instruction: str, show_progress: bool
    ) -> NDArray[np.float32]:
        texts = _several(texts)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        batches = self.encoder.batches(
            texts, instruction, self.token_budget, show_progress=show_progress
        )
        for positions, latents in batches:
            vectors[positions] = self.encoder.pool(latents).cpu().numpy()
        return vectors

    def compress(
        self, texts: Sequence[str], instruction: str | None = None, *, show_progress: bool = False
    ) -> Tensor:
        """Compress each text into k vectors, from which `decode` generates text.

        Parameters
        ----------
        texts
            n texts.
        instruction
            What the vectors are to generate; by default I_self.
        show_progress
            Draw a progress bar on standard error.

        Returns
        -------
        Tensor
            e, the last hidden states at the compress tokens: float32 [n, k, d],
            on the model's device, in the order of `texts`.
        """
        texts = _several(texts)
        if instruction is None:
            instruction = self.config.document_instruction
        shape = (len(texts), self.neck.k, self.backbone.hidden_size)
        latents = torch.empty(shape, device=self.backbone.device)
        batches = self.encoder.batches(
            texts, instruction, self.token_budget, show_progress=show_progress
        )
        for positions, batch in batches:
            latents[positions] = batch
        return latents

    def log_likelihood(
        self,
        latents: Tensor,
        targets: Sequence[str],
        *,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> Tensor:
        """Return log p(target | e) under the frozen decoder, in nats.

        The log-probabilities of the target's tokens and of the closing
        end-of-sequence token, given e as the only context (Deng et al. 2025,
        the Information Compression objective, without its sign).

        Parameters
        ----------
        latents
            e, [n, k, d], as from `compress`.
        targets
            n texts, cut at ``config.max_length`` tokens.
        reduction
            ``sum`` over the tokens, or ``mean``.

        Returns
        -------
        Tensor
            float32 [n].

        Raises
        ------
        ValueError
            There are not as many latents as targets, they are of another shape, or
            `reduction` is unknown.
        """
        targets = _several(targets)
        self._check(latents)
        if len(latents) != len(targets):
            raise ValueError(f"there are {len(latents)} latents and {len(targets)} targets")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction is {reduction!r}; it must be sum or mean")
        with self.as_decoder():
            sums, counts = self.decoder.score(latents, targets, self.token_budget)
        return sums / counts if reduction == "mean" else sums

    def decode(self, latents: Tensor, *, max_new_tokens: int = 64) -> list[str]:
        """Generate the text that each row of latents stands for, greedily.

        Parameters
        ----------
        latents
            e, [n, k, d], as from `compress`.
        max_new_tokens
            Where to stop if the model does not.

        Returns
        -------
        list of str
            n texts.

        Raises
        ------
        ValueError
            The latents are of another shape, or `max_new_tokens` is below 1, or more than
            the base's window has room for.
        """
        self._check(latents)
        room = self.backbone.window - self.neck.k
        if not 1 <= max_new_tokens <= room:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 1 to {room}")
        if not len(latents):
            return []
        with self.as_decoder():
            return self.decoder.generate(latents, max_new_tokens, self.token_budget)

    def as_decoder(self) -> AbstractContextManager[None]:
        """Switch the adapter off: inside the block the LLM is the frozen base, exactly.

        Other threads that encode or decode with this model wait until it ends.
        """
        return self.backbone.adapter_off()

    def _check(self, latents: Tensor) -> None:
        k, d = self.neck.k, self.backbone.hidden_size
        if latents.shape[1:] != (k, d):
            raise ValueError(f"latents are of shape {list(latents.shape)}, not [n, {k}, {d}]")


def full_name(name: str | Path | None) -> str:
    """Return the name by which a model is found from any folder: a path in full."""
    if name is None or name == DEFAULT:  # whatever lies in the working folder by that name
        return DEFAULT
    path = expanded(name)
    return str(path.resolve()) if str(name) and is_there(path) else str(name)


def _several(texts: Sequence[str]) -> list[str]:
    several = list(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in several):
        raise TypeError("a list of texts is needed, each of them a str")
    return several


def _bytes(parameter: Tensor) -> bytes:
    return parameter.detach().float().cpu().numpy().tobytes()
