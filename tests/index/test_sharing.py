"""An index that several objects of a process search."""

import copy
import gc
import os
import pickle
import shutil
import subprocess
import sys
import threading

import pytest

from autoreg_rag.errors import FingerprintError, StoreError
from autoreg_rag.index.index import Index
from autoreg_rag.index.sharing import SharedIndex
from autoreg_rag.stores import open_store

HOW = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def place(run, corpus, tmp_path):
    run(corpus.folder)
    return tmp_path / "index"


def itself(index):
    return index


def texts(index):
    (hits,) = index.search(["What do whales do?"], 3)
    return [hit.chunk.text for hit in hits]


def test_equal_places_and_settings_share_one_index(place, monkeypatch):
    one = SharedIndex(place, **HOW)
    index = one.use(itself)
    assert isinstance(index, Index)
    monkeypatch.chdir(place.parent)
    copies = [
        SharedIndex(str(place), **HOW, max_length=None),
        SharedIndex(place.name, **HOW),
        copy.deepcopy(one),
        pickle.loads(pickle.dumps(one)),  # noqa: S301 - made here
    ]
    assert all(other.use(itself) is index for other in copies)
    assert one.model_name == index.model.reference


def test_the_last_one_closes_it(place):
    one, other = SharedIndex(place, **HOW), SharedIndex(place, **HOW)
    expected = one.use(texts)
    one.close()
    one.close()
    assert other.use(texts) == expected
    del other
    gc.collect()
    with open_store(place, writable=True) as store:  # embedded Qdrant admits one at a time
        assert len(store)
    with pytest.raises(StoreError, match=f"{place} was closed"):
        one.use(texts)


def test_a_search_that_runs_ends_before_it_is_closed(place):
    shared = SharedIndex(place, **HOW)
    expected = shared.use(texts)

    def closed_meanwhile(index):
        closing = threading.Thread(target=shared.close)
        closing.start()
        closing.join(60)
        assert not closing.is_alive()
        return texts(index)

    assert shared.use(closed_meanwhile) == expected


def test_an_attempt_that_failed_is_not_remembered(place, tmp_path, tiny_folders):
    missing = SharedIndex(tmp_path / "later", **HOW)
    with pytest.raises(StoreError, match="later does not exist"):
        missing.open()
    with pytest.raises(FingerprintError):
        SharedIndex(place, model=str(tiny_folders["qwen"]), **HOW).open()
    place.rename(tmp_path / "later")
    assert missing.use(texts)


def test_an_index_that_was_made_anew_is_another(run, corpus, place, kind, tmp_path):
    old = SharedIndex(place, **HOW)
    index = old.use(itself)
    shutil.rmtree(place)
    corpus.write("a.txt", "Nothing but tulips.")
    run(corpus.folder)
    new = SharedIndex(place, **HOW)
    assert new.use(itself) is not index
    assert "Nothing but tulips." in new.use(texts)


async def test_it_searches_for_asynchronous_callers_in_another_thread(place):
    shared = SharedIndex(place, **HOW)
    assert await shared.ause(texts) == shared.use(texts)
    assert await shared.ause(lambda _: threading.get_ident()) != threading.get_ident()
    shared.close()
    with pytest.raises(StoreError, match="was closed"):
        await shared.ause(texts)


FORKING = """
import os, sys
from autoreg_rag.index.sharing import SharedIndex

shared = SharedIndex(sys.argv[1], dtype="float32", device="cpu")

def found(index):
    (hits,) = index.search(["What do whales do?"], 3)
    return id(index), [hit.chunk.text for hit in hits]

mine, expected = shared.use(found)
child = os.fork()
if not child:
    its, texts = shared.use(found)
    os._exit(not (its != mine and texts == expected))
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(status or shared.use(found) != (mine, expected))
"""


LEAVING = """
import os, sys
from autoreg_rag.errors import StoreError
from autoreg_rag.index.sharing import SharedIndex
from autoreg_rag.stores import open_store

shared = SharedIndex(sys.argv[1], dtype="float32", device="cpu")
shared.open()
child = os.fork()
if not child:
    del shared
    os._exit(0)
os.waitpid(child, 0)
try:
    open_store(sys.argv[1], writable=True)
except StoreError:
    sys.exit(0)
sys.exit("the lock was given up")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["qdrant"])
def test_a_forked_process_that_leaves_an_index_does_not_unlock_it(place):
    command = [sys.executable, "-c", LEAVING, str(place)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["faiss"])
def test_a_forked_process_opens_the_index_itself(place):
    # With one thread: those of OpenMP do not survive a fork, whatever is computed.
    command = [sys.executable, "-c", FORKING, str(place)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120, capture_output=True
    )
    assert done.returncode == 0, done.stderr
