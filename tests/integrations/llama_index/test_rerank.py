"""What LlamaIndex expects of a node postprocessor, and that its scores are the reranker's."""

import asyncio
import copy
import pickle

import numpy as np
import pytest
from autoreg_rag.rerank import Reranker
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.embeddings.autoreg import AutoRegEmbedding
from llama_index.postprocessor.autoreg_rerank import AutoRegRerank
from pydantic import ValidationError

from autoreg_rag.errors import FingerprintError, ModelError

QUESTION = "What is bread made of?"
TEXTS = [
    "Whales live in the sea.",
    "Bread is baked from flour, water and salt.",
    "naïve café, 漢字かな交じり文, emoji 🧵 👩‍👩‍👧",
    "A compiler reads code.",
    "far too long " * 300,
]


@pytest.fixture
def nodes():
    return [
        NodeWithScore(
            node=TextNode(id_=str(place), text=text, metadata={"place": place}),
            score=0.9 - place / 10,
        )
        for place, text in enumerate(TEXTS)
    ]


@pytest.fixture
def rerank(how):
    return AutoRegRerank(**how, top_n=100)


def contents(nodes):
    return [node.node.get_content(MetadataMode.EMBED) for node in nodes]


class TestScores:
    @pytest.mark.parametrize("kind", ["sum", "mean", "pmi", "cda", None])
    def test_they_are_the_rerankers_best_first(self, how, nodes, model, kind):
        rerank = AutoRegRerank(**how, top_n=100, score=kind)
        chosen = {} if kind is None else {"score": kind}
        expected = Reranker(model, **chosen).scores(QUESTION, contents(nodes))
        best = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        order = np.argsort(-expected, kind="stable")
        assert [node.node_id for node in best] == [nodes[place].node_id for place in order]
        assert [node.score for node in best] == pytest.approx(expected[order].tolist(), rel=1e-5)
        assert {type(node.score) for node in best} == {float}

    def test_only_the_best_are_returned(self, how, rerank, nodes):
        best = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        assert len(best) == len(nodes)
        two = AutoRegRerank(**how, top_n=2).postprocess_nodes(nodes, query_str=QUESTION)
        assert two == best[:2]

    def test_equal_texts_keep_their_order_and_every_node_comes_once(self, rerank, nodes):
        for place in (1, 3):
            nodes.append(NodeWithScore(node=TextNode(text=TEXTS[place], id_=f"again {place}")))
            nodes[place].node.metadata = {}
        best = [n.node_id for n in rerank.postprocess_nodes(nodes, query_str=QUESTION)]
        assert sorted(best) == sorted(node.node_id for node in nodes)
        assert best.index("again 1") == best.index("1") + 1
        assert best.index("again 3") == best.index("3") + 1

    def test_the_order_does_not_depend_on_the_scores_before(self, rerank, nodes):
        best = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        for score in (0.0, None, -1.0):
            for node in nodes:
                node.score = score
            assert rerank.postprocess_nodes(nodes, query_str=QUESTION) == best

    def test_metadata_is_scored_as_asked(self, how, nodes, model):
        mode = MetadataMode.NONE
        best = AutoRegRerank(**how, top_n=100, score="sum", metadata_mode=mode).postprocess_nodes(
            nodes, query_str=QUESTION
        )
        expected = Reranker(model, score="sum").scores(QUESTION, TEXTS)
        assert {node.node_id: node.score for node in best} == pytest.approx(
            {str(place): score for place, score in enumerate(expected.tolist())}, rel=1e-5
        )


class TestNodes:
    def test_those_that_come_in_stay_as_they_are(self, how, nodes):
        before = copy.deepcopy(nodes)
        rerank = AutoRegRerank(**how, keep_retrieval_score=True)
        rerank.postprocess_nodes(nodes, query_str=QUESTION)
        assert nodes == before

    def test_the_retrieval_score_is_kept_on_request_where_nobody_reads_it(self, how, nodes):
        rerank = AutoRegRerank(**how, top_n=100, keep_retrieval_score=True)
        before = {node.node_id: node for node in nodes}
        for node in rerank.postprocess_nodes(nodes, query_str=QUESTION):
            was = before[node.node_id]
            assert node.metadata == {**was.metadata, "retrieval_score": was.score}
            for mode in (MetadataMode.EMBED, MetadataMode.LLM):
                assert node.node.get_content(mode) == was.node.get_content(mode)
        plain = AutoRegRerank(**how, top_n=100).postprocess_nodes(nodes, query_str=QUESTION)
        assert not any("retrieval_score" in node.metadata for node in plain)


class TestBadInput:
    def test_no_question(self, rerank, nodes):
        with pytest.raises(ValueError, match="no question"):
            rerank.postprocess_nodes(nodes)
        with pytest.raises(ValueError, match="no question"):
            rerank.postprocess_nodes([])
        with pytest.raises(ValueError, match="empty"):
            rerank.postprocess_nodes(nodes, query_str=" \n")

    def test_no_nodes(self, rerank):
        assert rerank.postprocess_nodes([], query_str=QUESTION) == []

    @pytest.mark.parametrize("text", ["", " \n"])
    def test_a_node_without_text(self, rerank, nodes, text):
        nodes.append(NodeWithScore(node=TextNode(id_="empty", text=text, metadata={"a": 1})))
        with pytest.raises(ValueError, match="node empty has no text"):
            rerank.postprocess_nodes(nodes, query_str=QUESTION)

    def test_unknown_and_wrong_arguments(self):
        for wrong in ({"no_such": 1}, {"top_n": 0}, {"score": "max"}, {"metadata_mode": "x"}):
            (name,) = wrong
            with pytest.raises(ValidationError, match=name):
                AutoRegRerank(**wrong)

    def test_a_model_that_is_missing_or_another(self, how, nodes):
        with pytest.raises(ModelError, match="/no/such"):
            AutoRegRerank(model_name="/no/such").postprocess_nodes(nodes, query_str=QUESTION)
        with pytest.raises(FingerprintError):
            AutoRegRerank(**how, fingerprint="0" * 16).postprocess_nodes(nodes, query_str=QUESTION)


class TestFramework:
    def test_callbacks_and_events_are_fired(self, how, nodes, events):
        debug = LlamaDebugHandler(print_trace_on_end=False)
        rerank = AutoRegRerank(**how, top_n=2, callback_manager=CallbackManager([debug]))
        best = rerank.postprocess_nodes(nodes, query_bundle=QueryBundle(QUESTION))
        ((start, end),) = debug.get_event_pairs(CBEventType.RERANKING)
        assert start.payload[EventPayload.QUERY_STR] == QUESTION
        assert start.payload[EventPayload.TOP_K] == 2
        assert end.payload[EventPayload.NODES] == best
        first, last = events
        assert isinstance(first, ReRankStartEvent)
        assert (first.nodes, first.top_n, first.model_name) == (nodes, 2, rerank.model_name)
        assert isinstance(last, ReRankEndEvent)
        assert last.nodes == best

    async def test_asynchronous_calls_give_the_same(self, rerank, nodes):
        expected = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        calls = (rerank.apostprocess_nodes(nodes, query_str=QUESTION) for _ in range(3))
        assert await asyncio.gather(*calls) == [expected] * 3

    async def test_an_embedding_at_the_same_time_gets_right_vectors(self, how, rerank, nodes):
        """They share a model, whose adapter is off while it scores."""
        embedding = AutoRegEmbedding(**how)
        assert embedding._use(id) == rerank._use(id)
        vector = embedding.get_text_embedding(TEXTS[0])
        reranked = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        *vectors, again = await asyncio.gather(
            *(embedding.aget_text_embedding(TEXTS[0]) for _ in range(5)),
            rerank.apostprocess_nodes(nodes, query_str=QUESTION),
        )
        assert vectors == [vector] * 5
        assert again == reranked

    @pytest.mark.parametrize("is_pickled", [False, True])
    def test_a_round_trip_gives_equal_scores(self, how, nodes, is_pickled):
        rerank = AutoRegRerank(**how, top_n=3, score="mean", keep_retrieval_score=True)
        if is_pickled:
            again = pickle.loads(pickle.dumps(rerank))  # noqa: S301 - made here
        else:
            again = AutoRegRerank.from_json(rerank.to_json())
        assert AutoRegRerank.class_name() == rerank.to_dict()["class_name"] == "AutoRegRerank"
        expected = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        assert again.postprocess_nodes(nodes, query_str=QUESTION) == expected
