import asyncio
import copy
import gc
import os
import pickle
import threading
import weakref

import numpy as np
import pytest

from autoreg_rag.errors import FingerprintError, ModelError
from autoreg_rag.sharing import SharedModel, full_name

HOW = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def shared(tiny_folder):
    return SharedModel(tiny_folder, **HOW)


def test_equal_settings_share_a_model(tiny_folder, shared):
    model = shared.use(lambda model: model)
    copies = [
        SharedModel(str(tiny_folder), **HOW),
        SharedModel(tiny_folder, **HOW, max_length=None),
        copy.deepcopy(shared),
        pickle.loads(pickle.dumps(shared)),  # noqa: S301 - made here
    ]
    assert all(other.use(lambda model: model) is model for other in copies)
    assert SharedModel(tiny_folder, **HOW, max_length=9).use(lambda model: model) is not model


def test_a_model_is_freed_with_the_last_that_shares_it(tiny_folder):
    one, other = SharedModel(tiny_folder, **HOW), SharedModel(tiny_folder, **HOW)
    model = weakref.ref(one.use(lambda model: model))
    assert other.use(lambda found: found is model())
    del one
    gc.collect()
    assert model() is not None
    del other
    gc.collect()
    assert model() is None


def test_what_is_kept_is_made_once_and_freed_with_the_model(tiny_folder):
    def keep(shared):
        return shared.use(lambda model: shared.keep("pair", lambda: Pair(model)))

    one, other = SharedModel(tiny_folder, **HOW), SharedModel(tiny_folder, **HOW)
    kept = keep(one)
    assert keep(other) is kept
    assert keep(pickle.loads(pickle.dumps(one))) is kept  # noqa: S301 - made here
    assert keep(SharedModel(tiny_folder, **HOW, max_length=9)) is not kept
    model = weakref.ref(kept.model)
    del one, other, kept
    gc.collect()
    assert model() is None


class Pair:
    def __init__(self, model):
        self.model = model


def test_it_is_loaded_when_it_is_first_used(tmp_path, tiny_folder):
    link = tmp_path / "model"
    shared = SharedModel(link, **HOW)
    for _ in range(2):
        with pytest.raises(ModelError, match=str(link)):
            shared.use(lambda model: model)
    link.symlink_to(tiny_folder)  # a failed attempt is not remembered
    assert shared.use(lambda model: model.dimension) == 32


def test_the_fingerprint_is_known_after_the_first_use_and_another_is_refused(
    tiny_folder, tiny_model, shared
):
    assert shared.fingerprint is None
    shared.use(lambda model: None)
    assert shared.fingerprint == tiny_model.fingerprint()
    wrong = SharedModel(tiny_folder, fingerprint="0" * 16, **HOW)
    with pytest.raises(FingerprintError, match=shared.fingerprint):
        wrong.use(lambda model: pytest.fail("the work is not begun"))


def test_one_at_a_time_works_with_it(tiny_folder, shared):
    inside, most = [], []

    def work(model):
        inside.append(1)
        most.append(len(inside))
        model.encode_queries(["some text"])
        inside.pop()

    threads = [
        threading.Thread(target=SharedModel(tiny_folder, **HOW).use, args=[work]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


async def test_asynchronous_work_is_done_in_one_other_thread(tiny_folder, tiny_model, shared):
    def work(model):
        return threading.get_ident(), model.encode_queries(["text"])

    same = SharedModel(tiny_folder, **HOW)
    found = await asyncio.gather(shared.ause(work), shared.ause(work), same.ause(work))
    (thread,) = {thread for thread, _ in found}
    assert thread != threading.get_ident()
    for _, vectors in found:
        np.testing.assert_array_equal(vectors, tiny_model.encode_queries(["text"]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_wait_for_its_parents_lock(tiny_folder, shared):
    shared.use(lambda model: None)

    def fork(_):
        child = os.fork()
        if not child:
            # Waits for ever if it takes the lock that the parent's other thread holds.
            os._exit(0 if full_name(tiny_folder) == shared.name and free(shared) else 1)
        return os.waitpid(child, 0)[1]

    assert shared.use(fork) == 0


def free(shared):
    """Whether another thread can take the lock of the process's own slot."""
    got = []

    def take():
        got.append(shared._current_slot().lock.acquire(timeout=20))

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return got == [True]


def test_names_are_found_from_any_folder(tmp_path, monkeypatch):
    for name in ("model", "default"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert full_name("model") == str(tmp_path / "model")
    assert full_name("owner/model") == "owner/model"
    assert full_name(None) == full_name("default") == "default"
    assert full_name("./default") == str(tmp_path / "default")
