"""What LlamaIndex's two caches keep of the embedding, and for whom."""

import copy
import gc
import shutil

import numpy as np
import pytest
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError

from llama_index.embeddings.autoreg import AutoRegEmbedding

TEXTS = ["one text", "", "naïve café, 漢字", " \n\t", "half a character \ud800", "one text"]
CLOSE = {"rtol": 0, "atol": 2e-6}


class TestIngestionCache:
    @staticmethod
    def entries(cache):
        return cache.cache.get_all(cache.collection)

    def test_every_setting_that_changes_vectors_changes_the_key(self, how, other_folder):
        cache = IngestionCache()
        vectors = []
        variants = [
            how,
            how | {"model_name": str(other_folder)},
            how | {"query_instruction": "Other:"},
            how | {"document_instruction": "Other:"},
            how | {"pooling": "last"},
            how | {"max_length": 3},
        ]
        for variant in variants:
            pipeline = IngestionPipeline(transformations=[AutoRegEmbedding(**variant)], cache=cache)
            (node,) = pipeline.run(nodes=[TextNode(text="a text of some tokens", id_="1")])
            expected = AutoRegEmbedding(**variant).get_text_embedding("a text of some tokens")
            assert node.embedding == pytest.approx(expected, abs=1e-6)
            vectors.append(node.embedding)
        assert len(self.entries(cache)) == len(variants)
        # The query instruction, the third, changes no document's vector.
        assert len({tuple(vector) for vector in vectors}) == len(variants) - 1

    def test_another_model_under_the_same_name_changes_the_key(self, save_adapted):
        folder, cache = save_adapted(5), IngestionCache()
        for seed in (5, 6):
            if seed == 6:
                gc.collect()  # the first model is no longer used
                shutil.rmtree(folder)
                shutil.copytree(save_adapted(seed), folder)
            pipeline = IngestionPipeline(
                transformations=[AutoRegEmbedding(model_name=folder)], cache=cache
            )
            pipeline.run(nodes=[TextNode(text="text", id_="1")])
            del pipeline
        assert len(self.entries(cache)) == 2

    def test_equal_embeddings_find_what_the_other_stored(self, how, events):
        cache = IngestionCache()
        nodes = [TextNode(text="text", id_="1")]
        first = IngestionPipeline(transformations=[AutoRegEmbedding(**how)], cache=cache)
        again = IngestionPipeline(
            transformations=[AutoRegEmbedding.from_json(AutoRegEmbedding(**how).to_json())],
            cache=cache,
        )
        (stored,) = first.run(nodes=copy.deepcopy(nodes))
        embedded = sum(isinstance(event, EmbeddingEndEvent) for event in events)
        (found,) = again.run(nodes=copy.deepcopy(nodes))
        assert found.embedding == stored.embedding
        assert len(self.entries(cache)) == 1
        assert embedded == sum(isinstance(event, EmbeddingEndEvent) for event in events) == 1


class TestVectorCache:
    """`embeddings_cache`, which LlamaIndex keys by the text alone."""

    async def test_no_role_and_no_model_is_served_anothers_vector(self, how, other_folder):
        store = SimpleKVStore()
        for variant in (how, how | {"model_name": str(other_folder)}):
            plain = AutoRegEmbedding(**variant)
            cached = AutoRegEmbedding(**variant, embeddings_cache=store)
            for _ in range(2):
                assert cached.get_query_embedding("text") == plain.get_query_embedding("text")
                assert cached.get_text_embedding("text") == plain.get_text_embedding("text")
                assert await cached.aget_text_embedding("text") == plain.get_text_embedding("text")
                assert await cached.aget_query_embedding("text") == plain.get_query_embedding(
                    "text"
                )
        assert len(store.get_all("embeddings")) == 4

    async def test_a_batch_takes_from_it_and_adds_to_it(self, how):
        store = SimpleKVStore()
        cached = AutoRegEmbedding(**how, embeddings_cache=store)
        kept = cached.get_text_embedding(TEXTS[0])
        expected = AutoRegEmbedding(**how).get_text_embedding_batch(TEXTS)
        np.testing.assert_allclose(cached.get_text_embedding_batch(TEXTS), expected, **CLOSE)
        assert len(store.get_all("embeddings")) == len(set(TEXTS))
        for key in store.get_all("embeddings"):  # what is there is taken, not computed anew
            store.put(key, {"embedding": kept}, "embeddings")
        assert cached.get_text_embedding_batch(TEXTS) == [kept] * len(TEXTS)
        assert await cached.aget_text_embedding_batch(TEXTS) == [kept] * len(TEXTS)
        assert await cached.aget_text_embedding_batch([*TEXTS, "new"]) == [
            *[kept] * len(TEXTS),
            await cached.aget_text_embedding("new"),
        ]

    def test_it_is_a_store_and_set_only_at_the_start(self, how, tmp_path):
        with pytest.raises(TypeError, match="embeddings_cache"):
            AutoRegEmbedding(embeddings_cache={})
        with pytest.raises(ValidationError, match="frozen"):
            AutoRegEmbedding().embeddings_cache = SimpleKVStore()
        store = SimpleKVStore()
        vector = AutoRegEmbedding(**how, embeddings_cache=store).get_text_embedding("text")
        store.persist(str(tmp_path / "vectors.json"))
        again = SimpleKVStore.from_persist_path(str(tmp_path / "vectors.json"))
        cached = AutoRegEmbedding(**how, embeddings_cache=again)
        assert cached.get_text_embedding("text") == vector
        assert cached.to_dict() == AutoRegEmbedding(**how).to_dict()

    def test_what_is_no_text_is_refused_as_it_is_without_one(self, how):
        for cache in (None, SimpleKVStore()):
            embedding = AutoRegEmbedding(**how, embeddings_cache=cache)
            with pytest.raises(TypeError, match="each of them a str"):
                embedding.get_text_embedding(None)
