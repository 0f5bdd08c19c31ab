"""What LlamaIndex expects of a node postprocessor, and that its scores are the reranker's."""

import asyncio
import copy
import pickle
import threading

import numpy as np
import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import (
    MetadataMode,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from pydantic import ValidationError

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.errors import FingerprintError, ModelError
from autoreg_rag.fusion import standard_sum
from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank import Reranker, parts
from autoreg_rag.rerank.likelihoods import Likelihoods
from autoreg_rag.scores import DEFAULT_FUSION, SCORES, WITH_BASELINE
from llama_index.embeddings.autoreg import AutoRegEmbedding
from llama_index.postprocessor.autoreg_rerank import AutoRegRerank

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
    return AutoRegRerank(**how, top_n=100, fusion=None)


def contents(nodes):
    return [node.node.get_content(MetadataMode.EMBED) for node in nodes]


class TestScores:
    @pytest.mark.parametrize("kind", SCORES)
    def test_they_are_the_rerankers_best_first(self, how, nodes, model, kind):
        rerank = AutoRegRerank(**how, top_n=100, score=kind, fusion=None)
        expected = Reranker(model, score=kind).scores(QUESTION, contents(nodes))
        best = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        order = np.argsort(-expected, kind="stable")
        assert [node.node_id for node in best] == [nodes[place].node_id for place in order]
        assert [node.score for node in best] == pytest.approx(expected[order].tolist(), rel=1e-5)
        assert {type(node.score) for node in best} == {float}

    def test_only_the_best_are_returned(self, how, rerank, nodes):
        best = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        assert len(best) == len(nodes)
        two = AutoRegRerank(**how, top_n=2, fusion=None).postprocess_nodes(
            nodes, query_str=QUESTION
        )
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
        by_sum = AutoRegRerank(**how, top_n=100, score="sum", fusion=None, metadata_mode=mode)
        best = by_sum.postprocess_nodes(nodes, query_str=QUESTION)
        expected = Reranker(model, score="sum").scores(QUESTION, TEXTS)
        assert {node.node_id: node.score for node in best} == pytest.approx(
            {str(place): score for place, score in enumerate(expected.tolist())}, rel=1e-5
        )

    @pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
    def test_they_are_fused_with_the_scores_before(self, how, nodes, model, weight):
        rerank = AutoRegRerank(**how, top_n=100, fusion=weight)
        before = np.array([node.score for node in nodes])
        raw = Reranker(model).scores(QUESTION, contents(nodes))
        expected = standard_sum(before, raw, weight)
        best = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        assert {node.node_id: node.score for node in best} == pytest.approx(
            {str(place): score for place, score in enumerate(expected.tolist())}, abs=1e-4
        )
        assert [n.score for n in best] == sorted((n.score for n in best), reverse=True)
        nodes[2].score = None  # then the order counts, for all
        expected = standard_sum(-np.arange(len(nodes)), raw, weight)
        best = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        assert {node.node_id: node.score for node in best} == pytest.approx(
            {str(place): score for place, score in enumerate(expected.tolist())}, abs=1e-4
        )
        assert AutoRegRerank(**how).fusion == DEFAULT_FUSION


class TestStoredParts:
    """Parts of scores that indexing left in the metadata; shifted, so that their use shows."""

    SHIFT = 1000.0

    @pytest.fixture
    def node(self, model):
        text = TEXTS[1]
        likelihoods, maker = Likelihoods(model), parts.fingerprint(model)
        chunk = Chunk("1", text, "corpus/file", 0, len(text), {"page": 1})
        (stored,) = parts.with_parts(likelihoods, maker, [chunk], model.compress([text]))
        metadata = dict(stored.metadata)
        metadata[parts.PRIOR] -= self.SHIFT
        metadata[parts.OWN] -= self.SHIFT
        return TextNode(text=text, metadata=metadata, excluded_embed_metadata_keys=list(metadata))

    def shift(self, how, model, node, kind):
        """How far the score is from that of the text without stored parts."""
        rerank = AutoRegRerank(**how, score=kind, fusion=None)
        (found,) = rerank.postprocess_nodes([NodeWithScore(node=node)], query_str=QUESTION)
        text = node.get_content(MetadataMode.EMBED)
        return found.score - float(Reranker(model, score=kind).scores(QUESTION, [text])[0])

    @pytest.mark.parametrize("kind", SCORES)
    def test_they_are_used_where_the_score_has_such_a_part(self, how, model, node, kind):
        expected = self.SHIFT if kind in WITH_BASELINE else 0
        if kind == "cda_mean":
            expected /= len(model.decoder.ids([node.text])[0])
        assert self.shift(how, model, node, kind) == pytest.approx(expected, abs=0.01)

    @pytest.mark.parametrize("kind", WITH_BASELINE)
    def test_they_are_not_used_for_another_text_or_model(
        self, how, model, node, kind, other_folder
    ):
        piece = node.model_copy(update={"text": "Bread is baked"})
        titled = node.model_copy(update={"excluded_embed_metadata_keys": []})
        for other in (piece, titled):
            assert self.shift(how, model, other, kind) == pytest.approx(0, abs=0.01)
        how = how | {"model_name": str(other_folder)}
        other_model = AutoRegModel.from_pretrained(other_folder, dtype="float32", device="cpu")
        assert self.shift(how, other_model, node, kind) == pytest.approx(0, abs=0.01)


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

    def test_a_node_and_a_question_over_the_window_are_cut(self, how, rerank):
        long = "Whales are mammals that live in the sea. " * 200
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in (long, long + long)]
        first, second = rerank.postprocess_nodes(nodes, query_str=long)
        assert first.score == pytest.approx(second.score, abs=1e-3)
        assert [first.node, second.node] == [item.node for item in nodes]

    def test_ten_thousand_nodes(self, rerank):
        nodes = [NodeWithScore(node=TextNode(text=f"number {i}", id_=str(i))) for i in range(10000)]
        best = rerank.postprocess_nodes(nodes, query_str=QUESTION)
        few = rerank.postprocess_nodes([node.model_copy() for node in best], query_str=QUESTION)
        assert len(best) == rerank.top_n
        assert [n.score for n in best] == pytest.approx([n.score for n in few], abs=1e-3)

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

    async def test_the_event_loop_goes_on_while_the_model_is_busy(self, rerank, nodes):
        is_busy, is_released = threading.Event(), threading.Event()

        def hold(_):
            is_busy.set()
            assert is_released.wait(60)

        holder = threading.Thread(target=rerank._use, args=[hold])
        holder.start()
        is_busy.wait(60)
        call = asyncio.ensure_future(rerank.apostprocess_nodes(nodes, query_str=QUESTION))
        for _ in range(20):
            await asyncio.sleep(0)  # a call that blocks would hold the loop here
        assert not call.done()
        is_released.set()
        assert len(await call) == len(nodes)
        holder.join()

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
