"""AutoRegEmbed: texts to k vectors and back, with one causal language model.

Source of the method: Deng et al., "Following the Autoregressive Nature of LLM
Embeddings via Compression and Alignment", EMNLP 2025 (arXiv 2502.11401).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from autoreg_rag.backbone import Backbone, find_folder
from autoreg_rag.batching import length_buckets
from autoreg_rag.config import AutoRegConfig, is_model_folder
from autoreg_rag.errors import ModelError
from autoreg_rag.files import whole_folder
from autoreg_rag.likelihood import token_log_probs
from autoreg_rag.model_card import write_model_card
from autoreg_rag.neck import Neck

logger = logging.getLogger(__name__)

ADAPTER_FOLDER = "adapter"
TOKEN_BUDGETS = {"cpu": 2048, "mps": 8192, "cuda": 65536}
"""Tokens of a batch by device. On a CPU the activations should stay in its cache."""


class AutoRegModel(nn.Module):
    """One causal LM in two roles: adapter on, the encoder; adapter off, the decoder.

    Build it with `from_pretrained`.

    Parameters
    ----------
    config
        Settings saved with the model.
    backbone
        The causal LM. With an adapter its ``language_model`` is a `PeftModel`.
    neck
        Compress tokens and bridge.
    token_budget
        The most tokens of a batch, padding included; by default the device's.
    """

    def __init__(
        self,
        config: AutoRegConfig,
        backbone: Backbone,
        neck: Neck,
        *,
        token_budget: int | None = None,
    ) -> None:
        super().__init__()
        if config.base_hash != backbone.weights_hash:
            raise ModelError(
                f"the model was made for base {config.base_model} with hash "
                f"{config.base_hash[:12]}, and {backbone.name} has {backbone.weights_hash[:12]}"
            )
        if token_budget is not None and token_budget < 1:
            raise ModelError(f"the token budget is {token_budget}; it must be 1 or more")
        self.config = config
        self.backbone = backbone
        self.language_model = backbone.language_model
        self.neck = neck.to(backbone.device)
        self.token_budget = token_budget or TOKEN_BUDGETS.get(backbone.device.type, 8192)
        self._warned = False

    # ------------------------------------------------------------ load and save

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
            Fields of `AutoRegConfig` to change, such as ``max_length``.

        Raises
        ------
        ModelError
            The model cannot be found or loaded, or is bound to another base.
        """
        how = {"device": device, "dtype": dtype, "attention": attention}
        folder = find_folder(str(name)) if name is not None else None
        if folder is not None and is_model_folder(folder):
            config = dataclasses.replace(AutoRegConfig.load(folder), **_known(settings))
            backbone = Backbone.load(config.base_model, **how)
            neck = Neck.load(folder, shape=(config.num_compress_tokens, backbone.hidden_size))
            if (folder / ADAPTER_FOLDER).is_dir():
                backbone.language_model = PeftModel.from_pretrained(
                    backbone.language_model, folder / ADAPTER_FOLDER
                ).eval()
            return cls(config, backbone, neck, token_budget=token_budget)
        backbone = Backbone.load(None if name is None else str(name), **how)
        config = AutoRegConfig(backbone.name, backbone.weights_hash, **_known(settings))
        logger.warning(
            "%s has untrained compress tokens: it retrieves, but weakly", backbone.name
        )
        neck = Neck.untrained(backbone, config.num_compress_tokens)
        return cls(config, backbone, neck, token_budget=token_budget)

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
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi()
        with TemporaryDirectory() as temporary:
            self._write(Path(temporary))
            api.create_repo(repository, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repository, folder_path=temporary))

    def _write(self, folder: Path) -> None:
        self.config.save(folder)
        self.neck.save(folder)
        if isinstance(self.language_model, PeftModel):
            self.language_model.save_pretrained(folder / ADAPTER_FOLDER)
            (folder / ADAPTER_FOLDER / "README.md").unlink(missing_ok=True)
        write_model_card(folder, self.config, self.fingerprint())

    # ------------------------------------------------------------------ identity

    @property
    def name(self) -> str:
        """The base and how far it is trained, for people."""
        return f"{Path(self.backbone.name).name}, {self.config.stage}"

    @property
    def dimension(self) -> int:
        """The length of an embedding."""
        k = self.config.num_compress_tokens if self.config.pooling == "concat" else 1
        return k * self.backbone.hidden_size

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with anything that changes a vector.

        They cover the base's weights, the adapter, the compress tokens, and the
        settings that `AutoRegConfig.vector_settings` names; not device, number
        format or batch size, which move a vector only by rounding.
        """
        settings = json.dumps(self.config.vector_settings(), sort_keys=True)
        digest = hashlib.sha256(settings.encode())
        trained = {"compress_tokens": self.neck.compress_tokens}
        trained |= {n: p for n, p in self.language_model.named_parameters() if "lora_" in n}
        for name, parameter in sorted(trained.items()):
            digest.update(name.encode())
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    # -------------------------------------------------------------------- encode

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
        if instruction is None:
            instruction = self.config.document_instruction
        shape = (len(texts), self.neck.k, self.backbone.hidden_size)
        latents = torch.empty(shape, device=self.backbone.device)
        for rows, batch in self._compressed(texts, instruction, show_progress):
            latents[rows] = batch.float()
        return latents

    def encoder(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Run the encoder on token ids; gradients flow where they are enabled.

        Causal attention never looks right, so rows padded on the right need no
        mask: their own positions see what they would see alone.

        Parameters
        ----------
        sequences
            n rows of ids, as `encoder_ids` makes them.

        Returns
        -------
        Tensor
            Last hidden states at the compress tokens, [n, k, d].
        """
        k = self.neck.k
        ids, lengths = _padded(sequences, self.backbone.device, extra=k)
        inputs, positions = self.neck.append(self.backbone.embed(ids), lengths)
        hidden = self.backbone.body(inputs_embeds=inputs, use_cache=False).last_hidden_state
        rows = torch.arange(len(sequences), device=hidden.device)[:, None]
        latents: Tensor = hidden[rows, positions]
        return latents

    def encoder_ids(self, texts: Sequence[str], instruction: str) -> list[list[int]]:
        """Return what the encoder reads before the compress tokens.

        ``<bos> text instruction`` by the template; only the text is ever cut.
        """
        prefix, suffix = self.backbone.tokenize(
            [self.config.prefix, self.config.suffix(instruction)]
        )
        if (bos := self.backbone.tokenizer.bos_token_id) is not None:
            prefix = [bos, *prefix]
        return [prefix + ids + suffix for ids in self._truncated(texts)]

    def pool(self, latents: Tensor) -> Tensor:
        """Turn k vectors into one embedding: [n, k, d] to float32 [n, d] (or [n, k d])."""
        latents = latents.float()
        if self.config.pooling == "mean":
            pooled = latents.mean(dim=1)
        elif self.config.pooling == "last":
            pooled = latents[:, -1]
        else:
            pooled = latents.flatten(1)
        return normalize(pooled, dim=-1) if self.config.normalize else pooled

    def _embed(
        self, texts: Sequence[str], instruction: str, show_progress: bool
    ) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for rows, latents in self._compressed(texts, instruction, show_progress):
            vectors[rows] = self.pool(latents).cpu().numpy()
        return vectors

    @torch.inference_mode()
    def _compressed(
        self, texts: Sequence[str], instruction: str, show_progress: bool
    ) -> Iterator[tuple[list[int], Tensor]]:
        if isinstance(texts, str):
            raise TypeError("a list of texts is needed, not one text")
        sequences = self.encoder_ids(texts, instruction)
        lengths = [len(ids) + self.neck.k for ids in sequences]
        with tqdm(total=len(texts), unit="text", disable=not show_progress) as progress:
            for rows in length_buckets(lengths, self.token_budget):
                yield rows, self.encoder([sequences[row] for row in rows])
                progress.update(len(rows))

    # -------------------------------------------------------------------- decode

    def log_likelihood(
        self,
        latents: Tensor,
        targets: Sequence[str],
        *,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> Tensor:
        """Return log p(target | e) under the frozen decoder, in nats.

        The sum of log D(t_i | e, t_<i) over the target's tokens and the closing
        end-of-sequence token (Deng et al. 2025, section 3.1).

        Parameters
        ----------
        latents
            e, [n, k, d], as from `compress`.
        targets
            n texts, cut at ``config.max_length`` tokens.
        reduction
            ``sum``, or ``mean`` over the tokens.

        Returns
        -------
        Tensor
            float32 [n].
        """
        if len(latents) != len(targets):
            raise ValueError(f"{len(latents)} rows of latents and {len(targets)} targets")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction is {reduction!r}; it must be sum or mean")
        eos = self.backbone.tokenizer.eos_token_id
        sequences = [[*ids, eos] for ids in self._truncated(targets)]
        scores = torch.empty(len(targets), device=self.backbone.device)
        lengths = [len(ids) + self.neck.k for ids in sequences]
        with torch.inference_mode(), self.as_decoder():
            for rows in length_buckets(lengths, self.token_budget):
                batch = [sequences[row] for row in rows]
                sums = self.decoder(latents[rows], batch)
                counts = torch.tensor([len(ids) for ids in batch], device=sums.device)
                scores[rows] = sums / counts if reduction == "mean" else sums
        return scores

    def decoder(self, latents: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        """Return the summed log-probabilities of target ids behind latents, float32 [n].

        Call it under `as_decoder`.
        """
        ids, lengths = _padded(targets, self.backbone.device)
        prefix = self.neck.bridge(latents).to(self.backbone.dtype)
        inputs = torch.cat([prefix, self.backbone.embed(ids[:, :-1])], dim=1)
        hidden = self.backbone.body(inputs_embeds=inputs, use_cache=False).last_hidden_state
        # Position k - 1 + i predicts target token i.
        hidden = hidden[:, prefix.shape[1] - 1 :]
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        scores = token_log_probs(
            hidden[real], self.backbone.head_weight, ids[real], softcap=self.backbone.softcap
        )
        rows = real.nonzero()[:, 0]
        return scores.new_zeros(len(targets)).index_add(0, rows, scores)

    @torch.inference_mode()
    def decode(self, latents: Tensor, *, max_new_tokens: int = 64) -> list[str]:
        """Generate the text that latents stand for, greedily.

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
        """
        if not len(latents):
            return []
        prefix = self.neck.bridge(latents).to(self.backbone.dtype)
        with self.as_decoder():
            ids = self.language_model.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], device=prefix.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
            )
        return list(self.backbone.tokenizer.batch_decode(ids, skip_special_tokens=True))

    def as_decoder(self) -> AbstractContextManager[Any]:
        """Switch the adapter off: inside the block the LLM is the frozen base, exactly."""
        if isinstance(self.language_model, PeftModel):
            return self.language_model.disable_adapter()
        return nullcontext()

    # --------------------------------------------------------------------- shared

    def _truncated(self, texts: Sequence[str]) -> list[list[int]]:
        limit = self.max_text_length
        sequences = self.backbone.tokenize(list(texts))
        if not self._warned and (cut := sum(len(ids) > limit for ids in sequences)):
            logger.warning(
                "%d of %d texts are longer than %d tokens and are cut there", cut, len(texts), limit
            )
            self._warned = True
        return [ids[:limit] for ids in sequences]

    @cached_property
    def max_text_length(self) -> int:
        """The most tokens of a text that fit: ``config.max_length``, or the base's window."""
        instructions = (self.config.query_instruction, self.config.document_instruction)
        around = self.backbone.tokenize([self.config.suffix(text) for text in instructions])
        extra = self.neck.k + 1 + len(self.config.prefix) + max(map(len, around))
        return max(1, min(self.config.max_length, self.backbone.window - extra))


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings asked for, less those left at None; refuse unknown ones."""
    fields = {field.name for field in dataclasses.fields(AutoRegConfig)}
    if unknown := sorted(set(settings) - fields):
        raise TypeError(f"unknown settings: {', '.join(unknown)}")
    return {name: value for name, value in settings.items() if value is not None}


def _padded(
    sequences: Iterable[Sequence[int]], device: torch.device, *, extra: int = 0
) -> tuple[Tensor, Tensor]:
    """Pad rows of ids on the right with id 0; return ids [n, T + extra] and lengths [n]."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in sequences]
    lengths = torch.tensor([len(ids) for ids in rows])
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    ids = nn.functional.pad(ids, (0, extra))
    return ids.to(device), lengths.to(device)
