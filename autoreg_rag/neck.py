"""The k vectors between encoder and decoder: compress tokens before them, a bridge behind."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from autoreg_rag.backbone import Backbone
from autoreg_rag.errors import ModelError
from autoreg_rag.files import write_whole

NECK_FILE = "compress_tokens.safetensors"


class Neck(nn.Module):
    """The parameters of AutoRegEmbed that are not the LLM's own.

    They are kept apart from the LLM's vocabulary, so that its logits keep their
    shape and an adapter fits a base that was never resized.

    Parameters
    ----------
    compress_tokens
        Input vectors of the encoder's k compress tokens, [k, d].
    bridge_start, bridge_center, bridge_matrix
        b and c, [k, d], and M, [d, d]: the decoder reads ``b_j + (e_j - c_j) M``
        where the encoder wrote e_j. Last hidden states and input vectors live
        in different spaces, and most of a hidden state is the same for all
        texts: c, which is not trained, takes that away. Behind e = c the decoder
        reads b alone, which tells it nothing of any text.
    """

    bridge_center: Tensor

    def __init__(
        self,
        compress_tokens: Tensor,
        bridge_start: Tensor,
        bridge_center: Tensor,
        bridge_matrix: Tensor,
    ) -> None:
        super().__init__()
        self.compress_tokens = nn.Parameter(compress_tokens.float())
        self.bridge_start = nn.Parameter(bridge_start.float())
        self.register_buffer("bridge_center", bridge_center.float())
        self.bridge_matrix = nn.Parameter(bridge_matrix.float())

    @classmethod
    @torch.no_grad()
    def untrained(cls, backbone: Backbone, k: int) -> Neck:
        """Start from vectors of real tokens, which learn sooner than random ones.

        The compress tokens start as quotes, dots and line ends, b as line ends,
        rounded to bfloat16 so that they are the same whatever the LLM is loaded
        in. M only scales the last hidden states, measured on a plain sentence, to
        a sixth of an input vector's length, so that the decoder starts where it
        is without any context; a trainer fits M, b and c to texts first.

        Raises
        ------
        ModelError
            The tokenizer drops line ends.
        """

        def vectors(text: str) -> Tensor:
            # Some tokenizers put a mark of their own before a text's first letter.
            ids = [ids[-1] for ids in backbone.tokenize(list(text)) if ids]
            if not ids:
                raise ModelError(f"the tokenizer of {backbone.name} has no token for {text!r}")
            ids = [ids[j % len(ids)] for j in range(k)]
            return backbone.embed(torch.tensor(ids, device=backbone.device)).bfloat16()

        sentence = backbone.tokenize(["The quick brown fox jumps over the lazy dog."])
        inputs = backbone.embed(torch.tensor(sentence, device=backbone.device))
        hidden = backbone.body(inputs_embeds=inputs, use_cache=False).last_hidden_state
        d = hidden.shape[-1]
        scale = inputs.float().norm(dim=-1).mean() / hidden.float().norm(dim=-1).mean() / 6
        start = vectors("\n")
        return cls(vectors('".\n'), start, torch.zeros_like(start), scale * torch.eye(d))

    @property
    def k(self) -> int:
        """How many compress tokens there are."""
        return len(self.compress_tokens)

    def append(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Put the compress tokens right behind each row's own tokens.

        Parameters
        ----------
        inputs
            Input vectors with at least k free positions at each row's end, [n, T, d].
        lengths
            Each row's own tokens, [n].

        Returns
        -------
        Tensor, Tensor
            The filled input vectors, [n, T, d], and the positions of the
            compress tokens, [n, k].
        """
        positions = lengths[:, None] + torch.arange(self.k, device=lengths.device)
        rows = torch.arange(len(inputs), device=lengths.device)[:, None]
        tokens = self.compress_tokens.to(inputs.dtype).expand(len(inputs), -1, -1)
        return inputs.index_put((rows, positions), tokens), positions

    def bridge(self, latents: Tensor) -> Tensor:
        """Turn what the encoder wrote into what the decoder reads, [n, k, d]."""
        return self.bridge_start + (latents.float() - self.bridge_center) @ self.bridge_matrix

    @property
    def fitted(self) -> bool:
        """Whether M does more than scale."""
        return not torch.equal(self.bridge_matrix, self.bridge_matrix.diag().diag())

    def save(self, folder: Path) -> None:
        """Write the parameters into `folder`, float32."""
        state = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        write_whole(folder / NECK_FILE, save(state))

    @classmethod
    def load(cls, folder: Path, *, shape: tuple[int, int]) -> Neck:
        """Read the parameters from `folder` and check that they are [k, d] = `shape`.

        Raises
        ------
        ModelError
            The file is missing, damaged, or of another shape.
        """
        path = folder / NECK_FILE
        try:
            neck = cls(**load_file(path))
        except (OSError, TypeError, SafetensorError) as error:
            raise ModelError(f"{path} is missing or damaged: {error}") from error
        k, d = shape
        expected = {
            name: (d, d) if name == "bridge_matrix" else (k, d) for name in neck.state_dict()
        }
        for name, needed in expected.items():
            if (found := tuple(getattr(neck, name).shape)) != needed:
                raise ModelError(f"{path} holds {name} of shape {found}; the model needs {needed}")
        return neck
