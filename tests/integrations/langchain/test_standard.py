"""LangChain's own test suites, none overridden, with the real default model."""

from __future__ import annotations

from typing import ClassVar

import pytest
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from autoreg_rag.sharing import SharedModel
from langchain_autoreg import AutoRegEmbeddings, AutoRegRetriever


@pytest.fixture(scope="module", autouse=True)
def default_model(real_model):
    """Skip where the default model cannot be had, and keep it loaded from test to test."""
    shared = SharedModel()
    shared.use(lambda model: model)
    return shared


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return AutoRegEmbeddings


class TestEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return AutoRegEmbeddings


@pytest.fixture(scope="module")
def places(default_model, make_index, tmp_path_factory):
    """An index of each kind."""

    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        return default_model.use(lambda model: make_index(kind, model, folder))

    return {kind: make(kind) for kind in ("faiss", "qdrant")}


class OverFaiss:
    settings: ClassVar = {}

    @pytest.fixture(autouse=True)
    def place(self, places):
        self._place = places["faiss"]

    @property
    def retriever_constructor(self):
        return AutoRegRetriever

    @property
    def retriever_constructor_params(self):
        return {"place": self._place, **self.settings}

    @property
    def retriever_query_example(self):
        return "What is bread made of?"


class OverQdrant(OverFaiss):
    @pytest.fixture(autouse=True)
    def place(self, places):
        self._place = places["qdrant"]


class TestRetrieverOverFaiss(OverFaiss, RetrieversIntegrationTests):
    pass


class TestRetrieverOverQdrant(OverQdrant, RetrieversIntegrationTests):
    pass


class TestRerankingHybridRetriever(OverFaiss, RetrieversIntegrationTests):
    settings: ClassVar = {"hybrid": True, "reranker": "pmi"}
