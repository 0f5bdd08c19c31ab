"""The published training step, written plainly: what `train_step.py` compares with.

From the description in Deng et al., "Following the Autoregressive Nature of LLM
Embeddings via Compression and Alignment", EMNLP 2025 (arXiv 2502.11401): an
encoder that is trained and a frozen decoder, each a model of its own; one
padded batch with an attention mask; for each likelihood one encoder pass and
one decoder pass with the logits of all positions and a log-softmax in float32;
one backward pass through all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from autoreg_rag.neck import Neck

Row = Mapping[str, Any]


class Published(nn.Module):
    """Two models and the parameters between them.

    Parameters
    ----------
    encoder, decoder
        Causal LMs of transformers; the encoder with an adapter of peft, the
        decoder frozen.
    neck
        Compress tokens and bridge, the same parameters as ours.
    beta, tau
        Of the alignment loss.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, neck: Neck, beta: float, tau: float
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.neck = encoder, decoder, neck
        self.beta, self.tau = beta, tau

    def encode(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return the last hidden states at the compress tokens, [n, k, d]."""
        embed = self.encoder.get_input_embeddings()
        dtype, k = embed.weight.dtype, self.neck.k
        rows = [
            torch.cat([embed(torch.tensor(ids)), self.neck.compress_tokens.to(dtype)])
            for ids in sequences
        ]
        hidden = self.encoder.get_decoder()(
            inputs_embeds=pad_sequence(rows, batch_first=True),
            attention_mask=_mask([len(row) for row in rows]).long(),
            use_cache=False,
        ).last_hidden_state
        return torch.stack([hidden[i, len(row) - k : len(row)] for i, row in enumerate(rows)])

    def log_likelihood(self, latents: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        """Return log p(target | e), summed over each target's tokens, float32 [n]."""
        embed = self.decoder.get_input_embeddings()
        k = self.neck.k
        tokens = pad_sequence([torch.tensor(ids) for ids in targets], batch_first=True)
        real = _mask([len(ids) for ids in targets])
        prefix = self.neck.bridge(latents).to(embed.weight.dtype)
        logits = self.decoder(
            inputs_embeds=torch.cat([prefix, embed(tokens[:, :-1])], dim=1),
            attention_mask=torch.cat([real.new_ones(len(tokens), k), real[:, :-1]], dim=1).long(),
            use_cache=False,
        ).logits
        log_probs = logits[:, k - 1 :].float().log_softmax(dim=-1)
        chosen = log_probs.gather(-1, tokens[..., None]).squeeze(-1)
        return (chosen * real).sum(dim=1)

    def compression(self, rows: Sequence[Row]) -> Tensor:
        """Return L_IC, the mean over all tokens of the targets."""
        targets = [row["target_ids"] for row in rows]
        scores = self.log_likelihood(self.encode([row["context_input"] for row in rows]), targets)
        return -scores.sum() / sum(map(len, targets))

    def alignment(self, rows: Sequence[Row]) -> Tensor:
        """Return L_CDA, the mean over the rows; one negative each, likelihoods summed."""
        queries = [row["query_input"] for row in rows]
        documents = [row["positive_input"] for row in rows]
        positives = [row["positive_target"] for row in rows]
        negatives = [row["negative_target"] for row in rows]
        # Each likelihood is a pass of its own through both models, the query's too.
        positive = self.log_likelihood(self.encode(queries), positives)
        negative = self.log_likelihood(self.encode(queries), negatives)
        own = self.log_likelihood(self.encode(documents), positives)

        positive_reference = torch.tensor([row["reference_positive"] for row in rows])
        negative_reference = torch.tensor([row["reference_negatives"][0] for row in rows])
        gain = (positive - positive_reference) - (negative - negative_reference)
        s1 = -torch.sigmoid(self.beta * (positive - own).abs())
        s2 = -torch.sigmoid(self.beta * gain)
        first, second = (s1 / self.tau).exp(), (s2 / self.tau).exp()
        return -(first / (first + second)).log().mean()


def _mask(lengths: Sequence[int]) -> Tensor:
    """Return where the rows of a padded batch are real, [n, T]."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
