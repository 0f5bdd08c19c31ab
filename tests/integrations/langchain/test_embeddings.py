"""What LangChain expects of embeddings, and that they are the model's."""

import asyncio
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from autoreg_rag.errors import FingerprintError, ModelError, StoreError
from autoreg_rag.sharing import SharedModel
from langchain_autoreg import AutoRegEmbeddings

TEXTS = [
    "Whales live in the sea.",
    "",
    "two\nlines",
    "two lines",
    "naïve café, 漢字かな交じり文, عربي, emoji 🧵 👩‍👩‍👧",
    "a lone surrogate \ud800 and a NUL \0",
    "far too long " * 300,
]


class TestVectors:
    def test_documents_are_embedded_under_i_self(self, embeddings, model):
        assert embeddings.embed_documents(TEXTS) == model.encode_documents(TEXTS).tolist()

    def test_queries_are_embedded_under_i_next(self, embeddings, model):
        for text in TEXTS:
            assert embeddings.embed_query(text) == model.encode_queries([text])[0].tolist()

    def test_the_roles_have_vectors_of_their_own_in_any_order(self, embeddings):
        text = "What do whales eat?"
        query = embeddings.embed_query(text)
        (document,) = embeddings.embed_documents([text])
        assert not np.allclose(query, document, atol=1e-3)
        assert embeddings.embed_query(text) == query

    def test_vectors_are_floats_of_unit_length(self, embeddings, model):
        vectors = [*embeddings.embed_documents(TEXTS), embeddings.embed_query("")]
        assert {type(value) for vector in vectors for value in vector} == {float}
        assert {len(vector) for vector in vectors} == {model.dimension}
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_a_vector_does_not_depend_on_its_batch_or_place(self, embeddings):
        together = embeddings.embed_documents(TEXTS)
        alone = [embeddings.embed_documents([text])[0] for text in TEXTS]
        np.testing.assert_allclose(together, alone, atol=1e-5)
        np.testing.assert_allclose(embeddings.embed_documents(TEXTS[::-1])[::-1], alone, atol=1e-5)

    def test_newlines_stay(self, embeddings):
        with_newline, with_space = embeddings.embed_documents(TEXTS[2:4])
        assert not np.allclose(with_newline, with_space, atol=1e-3)

    def test_no_texts_give_no_vectors(self, embeddings):
        assert embeddings.embed_documents([]) == []

    @pytest.mark.parametrize("texts", ["one text", ["text", None], [b"bytes"]])
    def test_what_is_no_list_of_texts_is_refused(self, embeddings, texts):
        with pytest.raises(TypeError, match=r"one text|it must be a str"):
            embeddings.embed_documents(texts)

    def test_a_query_that_is_no_text_is_refused(self, embeddings):
        with pytest.raises(TypeError, match="dict"):
            embeddings.embed_query({"input": "text"})

    def test_the_default_model_answers_without_arguments(self, real_model):
        embeddings = AutoRegEmbeddings(dtype="float32", device="cpu")
        expected = real_model.encode_queries(["Where do whales live?"])[0]
        np.testing.assert_allclose(
            embeddings.embed_query("Where do whales live?"), expected, atol=1e-5
        )
        assert embeddings.model_name == "default"


class TestSettings:
    def test_the_model_is_named_by_either_name(self, model_folder):
        by_alias = AutoRegEmbeddings(model=model_folder)
        assert by_alias.model_name == str(model_folder)
        assert by_alias == AutoRegEmbeddings(model_name=str(model_folder))

    def test_none_is_the_default(self, index_folder, how):
        assert AutoRegEmbeddings(model=None).model_name == "default"
        of_index = AutoRegEmbeddings.from_index(index_folder, model=None)
        assert of_index.model_name == how["model_name"]

    def test_a_relative_path_is_kept_in_full(self, model_folder, monkeypatch):
        monkeypatch.chdir(model_folder.parent)
        assert AutoRegEmbeddings(model=model_folder.name).model_name == str(model_folder)

    @pytest.mark.parametrize(
        "wrong",
        [{"modle": "x"}, {"model": 3}, {"token_budget": 0}, {"max_length": 0}, {"pooling": "max"}],
    )
    def test_a_wrong_argument_is_refused(self, wrong):
        with pytest.raises(ValidationError):
            AutoRegEmbeddings(**wrong)

    def test_the_model_cannot_be_exchanged_afterwards(self, embeddings):
        with pytest.raises(ValidationError, match="frozen"):
            embeddings.model_name = "default"

    def test_settings_of_the_model_can_be_changed(self, how, model):
        changed = AutoRegEmbeddings(**how, query_instruction="An answer: ", pooling="last")
        text = "What is bread made of?"
        assert not np.allclose(
            changed.embed_query(text), model.encode_queries([text])[0], atol=1e-3
        )
        assert changed.load_fingerprint() != model.fingerprint()

    def test_nothing_is_loaded_before_it_is_needed(self):
        embeddings = AutoRegEmbeddings(model="/no/such/model")
        with pytest.raises(ModelError, match="/no/such/model"):
            embeddings.embed_query("text")

    def test_copies_find_their_model_by_their_own_settings(self, embeddings, other_folder):
        expected = embeddings.embed_query("text")
        for again in (
            copy.deepcopy(embeddings),
            pickle.loads(pickle.dumps(embeddings)),  # noqa: S301 - made here
            AutoRegEmbeddings.model_validate(embeddings.model_dump()),
            AutoRegEmbeddings.model_validate_json(embeddings.model_dump_json()),
        ):
            assert again.embed_query("text") == expected
        other = embeddings.model_copy(update={"model_name": str(other_folder)})
        assert other.embed_query("text") != expected
        assert embeddings.embed_query("text") == expected


class TestSharing:
    def test_equal_settings_share_a_model(self, how, embeddings):
        shared = SharedModel(how["model_name"], dtype=how["dtype"], device=how["device"])
        first = shared.use(lambda model: model)
        assert AutoRegEmbeddings(**how)._use(lambda model: model) is first
        assert embeddings._use(lambda model: model) is first

    def test_threads_get_what_one_would_get(self, how, embeddings):
        texts = [f"text number {number}" for number in range(24)]
        expected = [embeddings.embed_query(text) for text in texts]
        others = [AutoRegEmbeddings(**how) for _ in range(4)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: others[i % 4].embed_query(texts[i]), range(len(texts))))
        assert found == expected


class TestAsync:
    async def test_it_gives_the_same_vectors(self, embeddings):
        assert await embeddings.aembed_documents(TEXTS) == embeddings.embed_documents(TEXTS)
        assert await embeddings.aembed_query(TEXTS[0]) == embeddings.embed_query(TEXTS[0])
        assert await embeddings.aembed_documents([]) == []

    async def test_the_event_loop_goes_on_while_the_model_is_busy(self, embeddings):
        is_busy, is_released, answers = threading.Event(), threading.Event(), []

        def hold(_):
            is_busy.set()
            answers.append(is_released.wait(60))

        holder = threading.Thread(target=embeddings._use, args=[hold])
        holder.start()
        is_busy.wait(60)
        calls = asyncio.gather(embeddings.aembed_query("q"), embeddings.aembed_documents(["t"]))
        for _ in range(20):
            await asyncio.sleep(0)  # a call that blocks would hold the loop here
        assert not calls.done()
        is_released.set()
        query, documents = await calls
        holder.join()
        assert answers == [True]
        assert (query, documents) == (
            embeddings.embed_query("q"),
            embeddings.embed_documents(["t"]),
        )

    async def test_an_error_in_the_models_thread_reaches_the_caller(self):
        with pytest.raises(ModelError, match="/no/such/model"):
            await AutoRegEmbeddings(model="/no/such/model").aembed_query("text")


class TestFingerprint:
    def test_another_model_is_refused(self, how, model, other_folder):
        right = AutoRegEmbeddings(**how, fingerprint=model.fingerprint())
        assert right.load_fingerprint() == model.fingerprint()
        wrong = AutoRegEmbeddings(
            **{**how, "model_name": other_folder}, fingerprint=model.fingerprint()
        )
        with pytest.raises(FingerprintError, match=model.fingerprint()):
            wrong.embed_query("text")

    def test_those_of_an_index_made_its_vectors(self, index_folder, model, how):
        embeddings = AutoRegEmbeddings.from_index(index_folder, dtype="float32", device="cpu")
        assert embeddings.model_name == how["model_name"]
        assert embeddings.load_fingerprint() == model.fingerprint()

    def test_those_of_an_index_are_no_other_models(self, index_folder, other_folder):
        embeddings = AutoRegEmbeddings.from_index(index_folder, model=other_folder)
        with pytest.raises(FingerprintError, match=str(other_folder)):
            embeddings.embed_documents(["text"])

    def test_a_missing_index_is_named(self, tmp_path):
        with pytest.raises(StoreError, match=str(tmp_path / "none")):
            AutoRegEmbeddings.from_index(tmp_path / "none")


def test_a_vector_store_of_langchain_finds_by_them(embeddings, model):
    texts = TEXTS[:5]
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(text, metadata={"place": i}) for i, text in enumerate(texts)])
    cosines = model.encode_documents(texts) @ model.encode_queries(["whales"])[0]
    found = store.similarity_search_with_score("whales", k=5)
    assert [document.metadata["place"] for document, _ in found] == np.argsort(-cosines).tolist()
    np.testing.assert_allclose([score for _, score in found], np.sort(cosines)[::-1], atol=1e-5)
