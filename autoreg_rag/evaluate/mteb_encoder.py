"""The model as the `mteb` package wants an encoder to be.

>>> import mteb
>>> from autoreg_rag.evaluate.mteb_encoder import AutoRegMTEBEncoder
>>> from autoreg_rag.model import AutoRegModel
>>> encoder = AutoRegMTEBEncoder(AutoRegModel.from_pretrained())  # doctest: +SKIP
>>> mteb.evaluate(encoder, mteb.get_tasks(["STS12"]))  # doctest: +SKIP
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from autoreg_rag.evaluate.encoder import Encoder
from autoreg_rag.evaluate.optional import require
from autoreg_rag.stores.base import Vectors

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import Array, PromptType

EXTRA = "autoreg-rag[mteb]"


class IdentifiedEncoder(Encoder, Protocol):
    """An encoder that says which weights and settings make its vectors."""

    def fingerprint(self) -> str:
        """Return what changes whenever a vector would."""


class AutoRegMTEBEncoder:
    """An encoder for `mteb.evaluate`.

    What a task marks as a query is embedded as one; all else, the sentences
    of symmetric tasks too, as documents. MTEB's own prompts are not used: the
    model has its instructions.

    Parameters
    ----------
    model
        What embeds, such as an `AutoRegModel`.

    Attributes
    ----------
    mteb_model_meta
        Name, and the model's fingerprint as its revision, under which MTEB
        keeps results.
    """

    def __init__(self, model: IdentifiedEncoder) -> None:
        meta = require("mteb.models.model_meta", EXTRA)
        self._model = model
        self._similarities = require("mteb.similarity_functions", EXTRA)
        self.mteb_model_meta: ModelMeta = meta.ModelMeta.create_empty(
            {
                # MTEB makes folders of it: organisation/name.
                "name": "autoreg-rag/" + re.sub(r"[^\w.-]+", "-", model.name).strip("-."),
                "revision": model.fingerprint(),
                "similarity_fn_name": meta.ScoringFunction.COSINE,
                "use_instructions": True,
            }
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        show_progress_bar: bool = False,
        **kwargs: Any,
    ) -> Vectors:
        """Embed the texts of all batches, float32 [n, d], in their order.

        MTEB's `batch_size` is not used: the model sizes its batches in tokens.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type == "query":
            return self._model.encode_queries(texts, show_progress=show_progress_bar)
        return self._model.encode_documents(texts, show_progress=show_progress_bar)

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Return the cosines of all pairs, [n1, n2]."""
        return self._similarities.cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Return the cosines of corresponding embeddings, [n]."""
        return self._similarities.pairwise_cos_sim(embeddings1, embeddings2)
