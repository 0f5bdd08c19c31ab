from __future__ import annotations

import pytest

from langchain_autoreg import AutoRegEmbeddings, AutoRegRetriever


@pytest.fixture
def embeddings(how) -> AutoRegEmbeddings:
    return AutoRegEmbeddings(**how)


@pytest.fixture
def retriever(index_folder):
    with AutoRegRetriever(place=index_folder, dtype="float32", device="cpu") as retriever:
        yield retriever
