"""What LlamaIndex expects of an embedding, and what its caches and pipelines do with ours."""

import asyncio
import copy
import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation.events.embedding import (
    EmbeddingEndEvent,
    EmbeddingStartEvent,
)
from llama_index.core.schema import MetadataMode, TextNode
from pydantic import ValidationError

import autoreg_rag
from autoreg_rag.errors import FingerprintError, ModelError
from llama_index.embeddings.autoreg import AutoRegEmbedding

TEXTS = [
    "one text",
    "",
    "a longer text, which says more than the others do, and takes its time " * 3,
    "naïve café, 漢字かな交じり文, emoji 🧵 👩‍👩‍👧",
    " \n\t",
    "half a character \ud800",
    "one text",
    "far too long " * 400,
]
CLOSE = {"rtol": 0, "atol": 2e-6}


class TestVectors:
    def test_a_query_is_embedded_under_i_next_and_a_text_under_i_self(self, embedding, model):
        for text in TEXTS:
            query, passage = embedding.get_query_embedding(text), embedding.get_text_embedding(text)
            np.testing.assert_allclose(query, model.encode_queries([text])[0], **CLOSE)
            np.testing.assert_allclose(passage, model.encode_documents([text])[0], **CLOSE)
            assert not np.allclose(query, passage, atol=1e-3)

    def test_a_batch_gives_each_text_the_vector_that_it_has_alone(self, embedding):
        alone = [embedding.get_text_embedding(text) for text in TEXTS]
        np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), alone, **CLOSE)

    @pytest.mark.parametrize("size", [1, 3, 2048])
    def test_slices_and_token_batches_keep_the_order(self, how, model, size):
        embedding = AutoRegEmbedding(**how, embed_batch_size=size, token_budget=64)
        vectors = embedding.get_text_embedding_batch(TEXTS)
        np.testing.assert_allclose(vectors, model.encode_documents(TEXTS), **CLOSE)

    async def test_asynchronous_calls_give_the_same(self, embedding):
        query, text, batch, empty = await asyncio.gather(
            embedding.aget_query_embedding(TEXTS[0]),
            embedding.aget_text_embedding(TEXTS[0]),
            embedding.aget_text_embedding_batch(TEXTS),
            embedding.aget_text_embedding_batch([]),
        )
        assert query == embedding.get_query_embedding(TEXTS[0])
        assert text == embedding.get_text_embedding(TEXTS[0])
        assert batch == embedding.get_text_embedding_batch(TEXTS)
        assert empty == []

    async def test_many_slices_at_once_keep_the_order(self, how, model):
        embedding = AutoRegEmbedding(**how, embed_batch_size=2)
        texts = [f"text number {place}" for place in range(30)]
        expected = model.encode_documents(texts)
        plain = await embedding.aget_text_embedding_batch(texts)
        np.testing.assert_allclose(plain, expected, **CLOSE)
        embedding.num_workers = 3
        workers = await embedding.aget_text_embedding_batch(texts)
        np.testing.assert_allclose(workers, expected, **CLOSE)

    def test_vectors_are_python_floats_of_unit_length_and_one_dimension(self, embedding, model):
        vectors = [embedding.get_query_embedding(text) for text in TEXTS]
        vectors += embedding.get_text_embedding_batch(TEXTS)
        assert {type(number) for vector in vectors for number in vector} == {float}
        assert {len(vector) for vector in vectors} == {model.dimension}
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)

    def test_no_texts_give_no_vectors(self, embedding):
        assert embedding.get_text_embedding_batch([]) == []

    def test_a_text_that_is_too_long_is_cut_at_max_length(self, how):
        embedding = AutoRegEmbedding(**how, max_length=4)
        ids = embedding._use(lambda model: model.backbone.tokenize([TEXTS[2]])[0][:4])
        start = embedding._use(lambda model: model.backbone.tokenizer.decode(ids))
        expected = embedding.get_text_embedding(start)
        np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[2]), expected, **CLOSE)

    def test_nodes_are_embedded_with_the_metadata_that_is_to_be_embedded(self, embedding):
        node = TextNode(
            text="the text",
            metadata={"title": "seen", "path": "hidden"},
            excluded_embed_metadata_keys=["path"],
        )
        (done,) = embedding([node])
        seen = node.get_content(MetadataMode.EMBED)
        assert "seen" in seen
        assert "hidden" not in seen
        assert done.embedding == embedding.get_text_embedding(seen)

    def test_several_queries_are_averaged(self, embedding):
        vectors = [embedding.get_query_embedding(text) for text in TEXTS[:3]]
        mean = embedding.get_agg_embedding_from_queries(TEXTS[:3])
        np.testing.assert_allclose(mean, np.mean(vectors, axis=0), atol=1e-12)


class TestSettings:
    def test_unknown_and_wrong_arguments_are_refused(self):
        for wrong in (
            {"no_such_setting": 1},
            {"max_length": 0},
            {"token_budget": 0},
            {"embed_batch_size": 0},
            {"pooling": "median"},
            {"model_name": 7},
        ):
            (name,) = wrong
            with pytest.raises(ValidationError, match=name):
                AutoRegEmbedding(**wrong)

    def test_what_changes_vectors_cannot_be_changed_but_the_rest_can(self, embedding):
        for name in ("model_name", "device", "query_instruction", "fingerprint", "max_length"):
            with pytest.raises(ValidationError, match="frozen"):
                setattr(embedding, name, "other")
        manager = CallbackManager([])
        embedding.callback_manager = manager
        embedding.embed_batch_size = 7
        embedding.num_workers = 2
        assert embedding.callback_manager is manager

    def test_instructions_pooling_and_length_are_the_users_to_change(self, how, model):
        passage = TEXTS[2]
        for changed in (
            {"document_instruction": "Title:"},
            {"pooling": "last"},
            {"max_length": 5},
        ):
            own = AutoRegEmbedding(**how, **changed)
            assert not np.allclose(
                own.get_text_embedding(passage), model.encode_documents([passage])[0], atol=1e-3
            )
        own = AutoRegEmbedding(**how, query_instruction=model.config.document_instruction)
        np.testing.assert_allclose(
            own.get_query_embedding(passage), model.encode_documents([passage])[0], **CLOSE
        )

    def test_nothing_is_loaded_before_it_is_needed(self):
        embedding = AutoRegEmbedding(model_name="/no/such/model")
        assert embedding.fingerprint is None
        with pytest.raises(ModelError, match="/no/such/model"):
            embedding.get_text_embedding("text")

    def test_a_model_is_a_folder_found_from_anywhere(
        self, model_folder, how, monkeypatch, tmp_path
    ):
        monkeypatch.chdir(model_folder.parent)
        embedding = AutoRegEmbedding(**how | {"model_name": model_folder.name})
        monkeypatch.chdir(tmp_path)
        assert embedding.get_text_embedding("text") == AutoRegEmbedding(**how).get_text_embedding(
            "text"
        )
        assert AutoRegEmbedding(model_name=model_folder).model_name == str(model_folder)
        assert AutoRegEmbedding(model_name=None).model_name == "default"

    def test_it_is_an_embedding_by_both_names(self, embedding):
        assert autoreg_rag.AutoRegEmbedding is AutoRegEmbedding
        assert isinstance(embedding, BaseEmbedding)
        assert AutoRegEmbedding.class_name() == "AutoRegEmbedding"

    def test_without_llama_index_the_error_names_the_extra(self):
        code = (
            "import sys; sys.modules['llama_index.core'] = None\n"
            "import autoreg_rag\n"
            "try: autoreg_rag.AutoRegEmbedding\n"
            "except ImportError as error: print(error)\n"
        )
        answer = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert "pip install 'autoreg-rag[llama-index]'" in answer.stdout


def by_dict(embedding):
    return AutoRegEmbedding.from_dict(embedding.to_dict())


def by_json(embedding):
    return AutoRegEmbedding.from_json(embedding.to_json())


def by_pydantic(embedding):
    return AutoRegEmbedding.model_validate_json(embedding.model_dump_json())


def by_pickle(embedding):
    return pickle.loads(pickle.dumps(embedding))  # noqa: S301 - made here


ROUND_TRIPS = [by_dict, by_json, by_pydantic, by_pickle, copy.deepcopy]


class TestRoundTrips:
    @pytest.mark.parametrize("way", ROUND_TRIPS)
    @pytest.mark.parametrize("is_used", [False, True])
    def test_the_embedding_gives_equal_vectors(self, how, way, is_used):
        embedding = AutoRegEmbedding(**how, query_instruction="Answer:", embed_batch_size=3)
        if is_used:
            embedding.get_text_embedding("text")
        again = way(embedding)
        assert again.get_query_embedding("text") == embedding.get_query_embedding("text")
        assert again.get_text_embedding("text") == embedding.get_text_embedding("text")
        assert again.to_dict() == embedding.to_dict()

    @pytest.mark.parametrize("way", ROUND_TRIPS[:-1])
    def test_a_model_that_has_changed_since_is_refused(self, save_adapted, way):
        folder = save_adapted(3)
        embedding = AutoRegEmbedding(model_name=folder)
        again = way(embedding)  # not loaded yet
        del embedding
        gc.collect()  # the model that was loaded for its fingerprint
        shutil.rmtree(folder)
        shutil.copytree(save_adapted(4), folder)
        with pytest.raises(FingerprintError, match=str(folder)):
            again.get_text_embedding("text")
        with pytest.raises(FingerprintError):
            again.get_query_embedding("text")

    @pytest.mark.parametrize("is_used", [False, True])
    def test_a_copy_may_have_other_settings_of_the_model(self, how, other_folder, is_used):
        embedding = AutoRegEmbedding(**how)
        if is_used:
            embedding.get_text_embedding(TEXTS[2])
        for update in ({"max_length": 8}, {"model_name": str(other_folder)}):
            changed = embedding.model_copy(update=update)
            expected = AutoRegEmbedding(**how | update).get_text_embedding(TEXTS[2])
            assert changed.get_text_embedding(TEXTS[2]) == expected
            assert changed.fingerprint != embedding.to_dict()["fingerprint"]
        assert embedding.model_copy().fingerprint == embedding.fingerprint
        again = embedding.model_copy(update={"embed_batch_size": 3})
        assert again.fingerprint == embedding.fingerprint is not None

    @pytest.mark.parametrize("is_used", [False, True])
    def test_a_copy_insists_on_the_fingerprint_that_was_asked_for(self, how, model, is_used):
        embedding = AutoRegEmbedding(**how, fingerprint=model.fingerprint())
        if is_used:
            embedding.get_text_embedding("text")
        with pytest.raises(FingerprintError):
            embedding.model_copy(update={"max_length": 8}).get_text_embedding("text")
        anew = embedding.model_copy(update={"max_length": 8, "fingerprint": None})
        assert anew.get_text_embedding("text")

    def test_a_dictionary_names_the_fingerprint_and_a_pickle_is_small(self, embedding, model):
        assert embedding.to_dict()["fingerprint"] == model.fingerprint()
        assert json.loads(embedding.to_json()) == embedding.to_dict()
        embedding.get_text_embedding("text")
        assert len(pickle.dumps(embedding)) < 10_000


class TestEvents:
    def test_callbacks_and_events_come_for_each_call(self, embedding, events):
        debug = LlamaDebugHandler(print_trace_on_end=False)
        embedding.callback_manager = CallbackManager([debug])
        embedding.get_query_embedding("q")
        embedding.get_text_embedding("t")
        embedding.get_text_embedding_batch(["a", "b"])
        assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 3
        ends = [event for event in events if isinstance(event, EmbeddingEndEvent)]
        assert [end.chunks for end in ends] == [["q"], ["t"], ["a", "b"]]
        assert sum(isinstance(event, EmbeddingStartEvent) for event in events) == 3

    async def test_asynchronous_calls_fire_them_too(self, embedding, events):
        debug = LlamaDebugHandler(print_trace_on_end=False)
        embedding.callback_manager = CallbackManager([debug])
        embedding.embed_batch_size = 2
        await embedding.aget_text_embedding_batch(["a", "b", "c"])
        assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 2
        ends = [event for event in events if isinstance(event, EmbeddingEndEvent)]
        assert [end.chunks for end in ends] == [["a", "b"], ["c"]]


class TestSharing:
    def test_equal_settings_share_one_model_and_others_do_not(self, how):
        one, two = AutoRegEmbedding(**how), AutoRegEmbedding(**how, embed_batch_size=5)
        other = AutoRegEmbedding(**how, max_length=9)
        assert one._use(id) == two._use(id) == by_pickle(one)._use(id)
        assert one._use(id) != other._use(id)

    def test_threads_that_start_at_once_load_one_model_and_get_right_vectors(self, how, model):
        texts = [f"text number {place}" for place in range(8)]
        gate, found = threading.Barrier(len(texts)), {}

        def work(text):
            embedding = AutoRegEmbedding(**how, token_budget=100)
            gate.wait()
            found[text] = embedding.get_text_embedding(text), embedding, embedding._use(id)

        threads = [threading.Thread(target=work, args=[text]) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        vectors = [found[text][0] for text in texts]
        np.testing.assert_allclose(vectors, model.encode_documents(texts), **CLOSE)
        assert len({identity for _, _, identity in found.values()}) == 1

    async def test_the_event_loop_goes_on_while_the_model_is_busy(self, embedding):
        is_busy, is_released, answers = threading.Event(), threading.Event(), []

        def hold(_):
            is_busy.set()
            answers.append(is_released.wait(60))

        holder = threading.Thread(target=embedding._use, args=[hold])
        holder.start()
        is_busy.wait(60)
        calls = asyncio.gather(
            embedding.aget_query_embedding("q"),
            embedding.aget_text_embedding("t"),
            embedding.aget_text_embedding_batch(["a", "b"]),
        )
        for _ in range(20):
            await asyncio.sleep(0)  # a call that blocks would hold the loop here
        assert not calls.done()
        is_released.set()
        query, text, batch = await calls
        holder.join()
        assert answers == [True]
        assert query == embedding.get_query_embedding("q")
        assert [text, *batch] == embedding.get_text_embedding_batch(["t", "a", "b"])

    async def test_an_error_in_the_models_thread_reaches_the_caller(self):
        with pytest.raises(ModelError, match="/no/such/model"):
            await AutoRegEmbedding(model_name="/no/such/model").aget_query_embedding("text")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    async def test_a_forked_worker_embeds_with_a_model_of_its_own(self, embedding):
        nodes = [TextNode(text=f"text number {place}", id_=str(place)) for place in range(6)]
        expected = embedding.get_text_embedding_batch([node.text for node in nodes])
        pipeline = IngestionPipeline(transformations=[embedding], disable_cache=True)
        done = await pipeline.arun(nodes=nodes, num_workers=2)
        vectors = {node.node_id: node.embedding for node in done}
        np.testing.assert_allclose([vectors[node.node_id] for node in nodes], expected, **CLOSE)


class TestVectorStoreIndex:
    def test_llama_index_builds_and_searches_an_index_with_it(self, embedding, model):
        texts = ["Whales live in the sea.", "Bread is made of flour.", "Compilers read code."]
        index = VectorStoreIndex.from_documents(
            [Document(text=text) for text in texts], embed_model=embedding
        )
        found = index.as_retriever(similarity_top_k=3).retrieve("What is bread made of?")
        scores = model.encode_documents(texts) @ model.encode_queries(["What is bread made of?"])[0]
        expected = sorted(zip(scores, texts, strict=True), reverse=True)
        assert [node.text for node in found] == [text for _, text in expected]
        assert [node.score for node in found] == pytest.approx([s for s, _ in expected], abs=1e-5)

    def test_it_may_be_the_default_of_all(self, embedding, monkeypatch):
        monkeypatch.setattr(Settings, "_embed_model", None)
        Settings.embed_model = embedding
        index = VectorStoreIndex.from_documents([Document(text="one"), Document(text="two")])
        assert len(index.as_retriever(similarity_top_k=5).retrieve("one")) == 2

    def test_the_default_model_needs_no_arguments(self, real_model):
        texts = [
            "Bread is baked from flour, water, salt and yeast.",
            "Whales are mammals that live in the sea and breathe air.",
            "A compiler translates source code into machine code.",
        ]
        index = VectorStoreIndex.from_documents(
            [Document(text=text) for text in texts],
            embed_model=autoreg_rag.AutoRegEmbedding(),
        )
        question = "What does a compiler translate?"
        found = index.as_retriever(similarity_top_k=3).retrieve(question)
        scores = real_model.encode_documents(texts) @ real_model.encode_queries([question])[0]
        assert found[0].text == texts[int(np.argmax(scores))] == texts[2]
        expected = pytest.approx(sorted(map(float, scores), reverse=True), abs=0.02)  # bfloat16
        assert [node.score for node in found] == expected
