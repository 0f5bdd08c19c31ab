import dataclasses
import shutil

import numpy as np
import pytest
import torch

from autoreg_rag import Reranker
from autoreg_rag.corpus import Chunker
from autoreg_rag.index.index import Index
from autoreg_rag.index.indexer import Indexer
from autoreg_rag.index.parts import ScoreParts
from autoreg_rag.rerank.parts import MARK, OWN, PRIOR
from autoreg_rag.stores import Manifest, create_store, open_store
from tests.rerank.conftest import QUERY, load

PARTS = {PRIOR, OWN, MARK}
FILES = {
    "a.txt": "Whales are mammals that live in the sea. " * 12,
    "b.md": "# Bread\n\nBread is baked from flour, water and salt 🙂.\n",
    "c.jsonl": '{"text": "A compiler turns source code into machine code.", "title": "C"}\n',
}


@pytest.fixture(params=["faiss", "qdrant"])
def kind(request):
    return request.param


@pytest.fixture
def run(model, kind, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, content in FILES.items():
        (corpus / name).write_text(content)

    def run(**options):
        chunker = Chunker(model.backbone.tokenizer.backend_tokenizer, 32, 8)
        manifest = Manifest(model.fingerprint(), model.reference, model.dimension)
        with create_store(kind, tmp_path / "index", manifest) as store:
            return Indexer(model, store, chunker, **options).run(corpus)

    return run


def contents(place, model):
    """Chunks without their parts, the parts, the files, and what a search finds."""
    with Index.open(place, model=model) as index:
        chunks = list(index.store.chunks())
        (hits,) = index.search([QUERY], 100)
        # By id: scores of repeated texts differ by rounding, which depends on their place.
        found = sorted((hit.chunk.id, round(hit.score, 5)) for hit in hits)
        files = list(index.store.files())
    parts = [{key: chunk.metadata.get(key) for key in PARTS} for chunk in chunks]
    bare = [
        dataclasses.replace(
            chunk, metadata={k: v for k, v in chunk.metadata.items() if k not in PARTS}
        )
        for chunk in chunks
    ]
    return bare, parts, files, found


def check_parts(bare, parts, model):
    texts = [chunk.text for chunk in bare]
    for kind, key in {"pmi": PRIOR, "cda": OWN, "cda_mean": OWN}.items():
        computed = Reranker(model, score=kind).baselines(texts)
        np.testing.assert_allclose([part[key] for part in parts], computed, atol=2e-3)


def test_parts_are_stored_as_the_index_is_made(run, model, tmp_path):
    summary = run(score_parts=True)
    bare, parts, files, found = contents(tmp_path / "index", model)
    assert summary.scored == summary.encoded == len(bare)
    check_parts(bare, parts, model)
    assert run(score_parts=True).scored == 0
    shutil.rmtree(tmp_path / "index")
    run()
    plain, none, plain_files, plain_found = contents(tmp_path / "index", model)
    assert (plain, plain_files) == (bare, files)
    assert [id_ for id_, _ in plain_found] == [id_ for id_, _ in found]
    np.testing.assert_allclose([s for _, s in plain_found], [s for _, s in found], atol=1e-4)
    assert all(part == dict.fromkeys(PARTS) for part in none)


def test_an_index_that_is_there_gets_its_parts_and_loses_nothing(run, model, tmp_path):
    run()
    before = contents(tmp_path / "index", model)
    summary = run(score_parts=True)
    after = contents(tmp_path / "index", model)
    assert (summary.unchanged, summary.encoded, summary.scored) == (3, 0, len(after[0]))
    assert (after[0], after[2], after[3]) == (before[0], before[2], before[3])
    check_parts(after[0], after[1], model)
    (tmp_path / "corpus" / "b.md").write_text("Now it is about birds.")
    assert run(score_parts=True).scored == 1
    check_parts(*contents(tmp_path / "index", model)[:2], model)


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(run, model, tmp_path):
    run()
    with open_store(tmp_path / "index", writable=True) as store:
        total, stored = len(store), store.set_metadata

        def once(chunks):
            stored(chunks)
            raise KeyboardInterrupt

        store.set_metadata = once
        with pytest.raises(KeyboardInterrupt):
            ScoreParts(model).complete(store, 2)
    assert run(score_parts=True).scored == total - 2
    check_parts(*contents(tmp_path / "index", model)[:2], model)


def test_stored_parts_are_used_for_the_text_and_the_model_that_they_are_of(
    run, model, tmp_path, tiny_folder
):
    run(score_parts=True)
    with Index.open(tmp_path / "index", model=model) as index:
        (hits,) = index.search([QUERY], 3)

    def first(hit, model):
        return Reranker(model, score="pmi", fusion=None).rerank(QUERY, [hit])[0].score

    hit = hits[0]
    honest = first(hit, model)
    metadata = {**hit.chunk.metadata, PRIOR: hit.chunk.metadata[PRIOR] - 100}
    marked = dataclasses.replace(hit, chunk=dataclasses.replace(hit.chunk, metadata=metadata))
    assert first(marked, model) == pytest.approx(honest + 100)

    other_text = dataclasses.replace(
        marked, chunk=dataclasses.replace(marked.chunk, text="Another text.")
    )
    expected = Reranker(model, score="pmi").scores(QUERY, ["Another text."])[0]
    assert first(other_text, model) == pytest.approx(expected)

    other = load(tiny_folder)
    with torch.no_grad():
        other.neck.bridge_start.mul_(2)
    assert other.fingerprint() == model.fingerprint()  # its vectors are the same
    expected = Reranker(other, score="pmi").scores(QUERY, [hit.chunk.text])[0]
    assert first(marked, other) == pytest.approx(expected)
