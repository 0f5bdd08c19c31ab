"""An indexing run that is killed at any moment is continued to the same end."""

import os
import signal

import pytest
import torch

from autoreg_rag.corpus import Chunker
from autoreg_rag.index.indexer import Indexer
from autoreg_rag.model import AutoRegModel
from autoreg_rag.stores import Manifest, create_store, open_store
from tests.forkserver import processes
from tests.index.conftest import contents

WRITES = ["write_manifest", "add", "finish_file", "remove_file", "discard", "optimize"]


def index_and_die(kind, folder, corpus, model, die_at=0):
    """Index in a process that kills itself at an event; return how many there were, or None."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_work, args=(kind, folder, corpus, model, die_at, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        assert process.exitcode == -signal.SIGKILL
        return None


def _work(kind, folder, corpus, model, die_at, sender):
    """Index; events are the start and the end of each write to the store, and each fsync."""
    torch.set_num_threads(1)
    count = 0

    def happen():
        nonlocal count
        count += 1
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(write):
        def wrapper(*args):
            happen()
            write(*args)
            happen()

        return wrapper

    encoder = AutoRegModel.from_pretrained(model, dtype="float32", device="cpu", token_budget=32)
    chunker = Chunker(encoder.backbone.tokenizer.backend_tokenizer, 32, 8)
    manifest = Manifest(encoder.fingerprint(), encoder.reference, encoder.dimension)
    os.fsync = counted(os.fsync)
    with create_store(kind, folder, manifest) as store:
        for name in WRITES:
            setattr(store, name, counted(getattr(store, name)))
        Indexer(encoder, store, chunker).run(corpus)
    sender.send(count)


def scores_by_id(store, queries):
    """The cosine of every chunk with every query."""
    return [{h.chunk.id: h.score for h in hits} for hits in store.search(queries, len(store))]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_killed_runs_are_continued_to_the_end_of_one_that_is_not(
    run, kind, corpus, tmp_path, tiny_folder, tiny_model
):
    folder = tmp_path / "killed"

    def index(die_at=0):
        return index_and_die(kind, folder, corpus.folder, tiny_folder, die_at)

    events = index_and_die(kind, tmp_path / "counted", corpus.folder, tiny_folder)
    for die_at in (events // 2, 4):
        assert index(die_at) is None
    assert index() is not None

    corpus.write("a.txt", "Now it is about birds that fly over the sea. " * 30)
    (corpus.folder / "b.md").unlink()
    for die_at in (2, 5):
        assert index(die_at) is None
    assert index() is not None

    run(corpus.folder, place=tmp_path / "fresh")
    queries = tiny_model.encode_queries(["Where do birds fly?", "What is a compiler?"])
    with open_store(folder) as store, open_store(tmp_path / "fresh") as fresh:
        assert contents(store, tiny_model) == contents(fresh, tiny_model)
        found, expected = scores_by_id(store, queries), scores_by_id(fresh, queries)
        for scores, right in zip(found, expected, strict=True):
            assert scores == pytest.approx(right, abs=1e-4)
