from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoreg_rag.corpus import Chunker
from autoreg_rag.index.indexer import Indexer
from autoreg_rag.stores import Manifest, create_store

KINDS = ["faiss", "qdrant"]


class Corpus:
    """A folder of text files that a test changes."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()

    def write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def corpus(tmp_path):
    corpus = Corpus(tmp_path / "corpus")
    corpus.write("a.txt", "Whales are mammals that live in the sea. " * 30)
    corpus.write("b.md", "# Bread\n\nBread is baked from flour, water and salt.\n")
    corpus.write("deep/c.txt", "A compiler turns source code into machine code.")
    return corpus


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def run(tiny_model, tmp_path, kind):
    """Index the corpus into the test's store with the tiny model."""

    def run(*roots: Path, size: int = 32, place: Path | None = None, **options):
        chunker = Chunker(tiny_model.backbone.tokenizer.backend_tokenizer, size, 8)
        manifest = Manifest(tiny_model.fingerprint(), tiny_model.reference, tiny_model.dimension)
        with create_store(kind, place or tmp_path / "index", manifest) as store:
            return Indexer(tiny_model, store, chunker, **options).run(*roots)

    return run


def contents(store, model):
    """Everything in a store: chunks by id, each found by its own vector; and the files."""
    chunks = {chunk.id: chunk for chunk in store.chunks()}
    vectors = model.encode_documents([chunk.text for chunk in chunks.values()])
    if chunks:
        scores = [hits[0].score for hits in store.search(vectors, 1)]
        np.testing.assert_allclose(scores, 1, atol=1e-3)
    return chunks, list(store.files())


def texts_by_source(store):
    """The texts of each source, in their order."""
    found = {}
    for chunk in store.chunks():
        found.setdefault(chunk.source, []).append(chunk)
    return {s: [c.text for c in sorted(cs, key=lambda c: c.start)] for s, cs in found.items()}
