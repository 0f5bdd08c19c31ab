"""The parts of scores that do not depend on the question, stored with a chunk.

They are three values of its metadata: log p(d), log p(d | e_d), and a mark
that binds them to the model that made them and to the text that they are of.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank.likelihoods import Likelihoods
from autoreg_rag.scores import Score

PRIOR = "autoreg_log_prior"
OWN = "autoreg_log_own"
MARK = "autoreg_parts"
"""Keys of metadata."""

_KEYS: dict[Score, str] = {"pmi": PRIOR, "cda": OWN, "cda_mean": OWN}


def fingerprint(model: AutoRegModel) -> str:
    """Return 16 hexadecimal digits that change with anything that changes a part.

    That is what changes a vector, and the bridge behind it.
    """
    digest = hashlib.sha256(model.fingerprint().encode())
    neck = model.neck
    for parameter in (neck.bridge_start, neck.bridge_center, neck.bridge_matrix):
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def with_parts(
    likelihoods: Likelihoods, maker: str, chunks: Sequence[Chunk], latents: Tensor
) -> list[Chunk]:
    """Return the chunks with their parts among the metadata.

    Parameters
    ----------
    likelihoods
        Of the model.
    maker
        The `fingerprint` of that model.
    chunks
        n chunks.
    latents
        Their e_d, [n, k, d], as `AutoRegModel.compress` makes them.
    """
    texts = [chunk.text for chunk in chunks]
    priors = likelihoods.prior(texts).tolist()
    owns = likelihoods.own(texts, latents).tolist()
    scored = []
    for chunk, prior, own in zip(chunks, priors, owns, strict=True):
        parts = {PRIOR: prior, OWN: own, MARK: _mark(chunk.text, maker)}
        scored.append(dataclasses.replace(chunk, metadata={**chunk.metadata, **parts}))
    return scored


def has_parts(text: str, metadata: Mapping[str, object], maker: str) -> bool:
    """Tell whether the metadata of a text holds the parts that this model makes of it."""
    return MARK in metadata and metadata[MARK] == _mark(text, maker)


def stored_part(text: str, metadata: Mapping[str, object], kind: Score, maker: str) -> float | None:
    """Return the part that a kind of score needs; None if this model's of this text is missing."""
    value = metadata.get(_KEYS[kind]) if has_parts(text, metadata, maker) else None
    return float(value) if isinstance(value, int | float) else None


def _mark(text: str, maker: str) -> str:
    digest = hashlib.sha256(f"{maker}\0{text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
