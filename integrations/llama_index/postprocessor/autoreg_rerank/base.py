"""Reranking by likelihood as a node postprocessor of LlamaIndex."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from autoreg_rag.rerank import Reranker
from llama_index.core import instrumentation
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.embeddings.autoreg.settings import ModelSettings

RETRIEVAL_SCORE = "retrieval_score"
"""The key of metadata under which the score before reranking is kept."""

_dispatcher = instrumentation.get_dispatcher(__name__)  # type: ignore[attr-defined]


class AutoRegRerank(ModelSettings, BaseNodePostprocessor):
    """Orders nodes by the likelihood of their text under the question's vectors.

    Scores are those of `autoreg_rag.Reranker`: raw, higher is better, most of them
    negative. Equal scores keep their order. The nodes that come in stay as they are.

    The other fields are those of `ModelSettings`; with the settings of an
    `AutoRegEmbedding` it shares that one's model.

    Parameters
    ----------
    top_n
        How many nodes to return.
    score
        ``sum``, ``mean``, ``pmi`` or ``cda``, by default that of `autoreg_rag.Reranker`.
    metadata_mode
        Which metadata stands before a node's text; by default what is embedded.
    keep_retrieval_score
        Keep the score that a node came with in its metadata, as
        ``retrieval_score``, where neither an embedding nor an LLM reads it.

    Raises
    ------
    pydantic.ValidationError
        An argument is unknown or wrong.
    ValueError
        When used: there is no question, or a node has no text.
    ModelError, FingerprintError
        When first used: the model cannot be loaded, or is another.
    """

    top_n: int = Field(default=5, gt=0, description="The number of nodes to return.")
    score: Literal["sum", "mean", "pmi", "cda"] | None = Field(
        default=None, description="The kind of score; by default the reranker's."
    )
    metadata_mode: MetadataMode = Field(
        default=MetadataMode.EMBED, description="Which metadata stands before a node's text."
    )
    keep_retrieval_score: bool = Field(
        default=False, description="Keep the score before reranking in the metadata."
    )

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps of the reranker carry."""
        return "AutoRegRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        question = _question(query_bundle)
        if not nodes:
            return []
        texts = [self._text(item.node) for item in nodes]
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model_name,
            EventPayload.QUERY_STR: question,
            EventPayload.TOP_K: self.top_n,
        }
        start = ReRankStartEvent(
            query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model_name
        )
        _dispatcher.event(start)
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            chosen = {} if self.score is None else {"score": self.score}
            scores = self._use(lambda model: Reranker(model, **chosen).scores(question, texts))
            order = np.argsort(-scores, kind="stable")[: self.top_n].tolist()
            best = [self._rescored(nodes[place], float(scores[place])) for place in order]
            event.on_end(payload={EventPayload.NODES: best})
        _dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    def _text(self, node: BaseNode) -> str:
        if not node.get_content(MetadataMode.NONE).strip():
            raise ValueError(
                f"node {node.node_id} has no text to score: leave it out, or give it a text"
            )
        return node.get_content(self.metadata_mode)

    def _rescored(self, item: NodeWithScore, score: float) -> NodeWithScore:
        """Return the node with another score; a copy, if something is added to it."""
        node = item.node
        if self.keep_retrieval_score:
            node = node.model_copy(
                update={
                    "metadata": node.metadata | {RETRIEVAL_SCORE: item.score},
                    "excluded_embed_metadata_keys": _with_key(node.excluded_embed_metadata_keys),
                    "excluded_llm_metadata_keys": _with_key(node.excluded_llm_metadata_keys),
                }
            )
        return NodeWithScore(node=node, score=score)


def _question(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise ValueError("there is no question to rerank by: pass query_bundle or query_str")
    if not bundle.query_str.strip():
        raise ValueError("the question to rerank by is empty")
    return bundle.query_str


def _with_key(keys: list[str]) -> list[str]:
    return [*keys, RETRIEVAL_SCORE]
