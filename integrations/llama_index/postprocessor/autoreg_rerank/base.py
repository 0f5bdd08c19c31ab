"""Reranking by likelihood as a node postprocessor of LlamaIndex."""

from __future__ import annotations

from typing import Any

from llama_index.core import instrumentation
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from autoreg_rag.corpus.records import Chunk, Hit
from autoreg_rag.fusion import retrieval_scores
from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank import Reranker
from autoreg_rag.scores import DEFAULT_FUSION, DEFAULT_SCORE, Score
from llama_index.embeddings.autoreg.settings import ModelSettings

RETRIEVAL_SCORE = "retrieval_score"
"""The key of metadata under which the score before reranking is kept."""

_dispatcher = instrumentation.get_dispatcher(__name__)  # type: ignore[attr-defined]


class AutoRegRerank(ModelSettings, BaseNodePostprocessor):
    """Orders nodes by the likelihood of their text under the question's vectors.

    Scores are those of `autoreg_rag.rerank.Reranker`: higher is better, and without
    `fusion` most are negative. Equal scores keep their order. The nodes that come in stay as they
    are. Parts of scores that indexing stored with a chunk are used, not computed.

    The other fields are those of `ModelSettings`; with the settings of an
    `AutoRegEmbedding` it shares that one's model.

    Parameters
    ----------
    top_n
        How many nodes to return.
    score
        Kind of the score: ``sum``, ``mean``, ``pmi``, ``cda`` or ``cda_mean``, see
        `autoreg_rag.scores.score`.
    fusion
        The weight, from 0 to 1, in the final score of the one that the nodes come with,
        see `autoreg_rag.fusion.standard_sum`; where a node has none, of the order
        that they come in. None to rank by this score alone, as it is.
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
        When used: there is no question, a node has no text, or a score to fuse is not
        finite.
    ModelError, FingerprintError
        When first used: the model cannot be loaded, or is another.
    """

    top_n: int = Field(default=5, gt=0, description="The number of nodes to return.")
    score: Score = Field(default=DEFAULT_SCORE, description="The kind of score.")
    fusion: float | None = Field(
        default=DEFAULT_FUSION,
        ge=0,
        le=1,
        description="The weight of the score before reranking.",
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
        before = retrieval_scores([item.score for item in nodes])
        scored = enumerate(zip(nodes, before, strict=True))
        hits = [self._hit(place, item, score) for place, (item, score) in scored]
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
            found = self._use(lambda model: self._reranked(model, question, hits))
            best = [self._rescored(nodes[int(hit.chunk.id)], hit.score) for hit in found]
            event.on_end(payload={EventPayload.NODES: best})
        _dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    def _hit(self, place: int, item: NodeWithScore, score: float) -> Hit:
        """Return a node as a hit whose id is the node's place."""
        node = item.node
        if not node.get_content(MetadataMode.NONE).strip():
            raise ValueError(
                f"node {node.node_id} has no text to score: leave it out, or give it a text"
            )
        text = node.get_content(self.metadata_mode)
        return Hit(score, Chunk(str(place), text, "", 0, len(text), node.metadata))

    def _reranked(self, model: AutoRegModel, question: str, hits: list[Hit]) -> list[Hit]:
        reranker = self._model().keep(
            (Reranker, self.score, self.fusion),
            lambda: Reranker(model, score=self.score, fusion=self.fusion),
        )
        return reranker.rerank(question, hits, top_n=self.top_n)

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
