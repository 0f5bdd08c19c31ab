"""Checkpoints by the clock, and the end by it, where processes' clocks differ."""

import itertools
import os
import signal
import types

import pytest

from autoreg_trainers import callbacks, training
from tests.trainers.running import apart, flags, history

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gloo's processes are started by a fork")

STEPS = 8


def differ(rank, ahead):
    """Let a minute pass with each look at one process's clock, and none by the other's."""
    signal.alarm(120)  # ends processes that wait for each other
    minutes = itertools.count() if rank == ahead else itertools.repeat(0)
    callbacks.time = types.SimpleNamespace(monotonic=lambda: 60.0 * next(minutes))


@pytest.mark.parametrize(("setting", "ahead"), [("max_minutes", 1), ("save_minutes", 0)])
def test_processes_save_and_stop_together(place, rows_file, tiny_folder, setting, ahead):
    out = place / setting
    times = {"save_minutes": 0, setting: 4}
    options = flags(model=tiny_folder, sources=rows_file, max_steps=STEPS, out=out, **times)
    options += ["--tasks", "reconstruct=1", "--keep-checkpoints", STEPS]
    done = apart("ic", *options, cwd=place, count=2, before=differ, given=(ahead,))
    assert done == [0, 0]
    complete = sorted(path.parent.name for path in out.glob("checkpoints/*/complete"))
    logged = sorted(history(out))
    if setting == "max_minutes":
        assert logged == list(range(1, len(logged) + 1))
        assert len(logged) < STEPS
        assert complete == [f"checkpoint-{len(logged)}"]
    else:
        assert logged == list(range(1, STEPS + 1))
        assert len(complete) > 1  # of which the last is the run's end
        assert complete[-1] == f"checkpoint-{STEPS}"


def hours_to_load(rank):
    """Let loading the model take an hour."""
    now = [0.0]
    callbacks.time = types.SimpleNamespace(monotonic=lambda: now[0])
    load = training.load_model

    def loaded(*args):
        now[0] += 3600
        return load(*args)

    training.load_model = loaded


def test_loading_counts_for_the_end_and_not_for_checkpoints(place, rows_file, tiny_folder):
    options = flags(model=tiny_folder, sources=rows_file, max_steps=3, save_minutes=30)
    options += ["--tasks", "reconstruct=1"]
    for name, more, steps in (
        ("stopped", ["--max-minutes", 30], [1]),
        ("whole", ["--max-minutes", 90], [1, 2, 3]),
    ):
        run = [*options, *more, "--out", place / name]
        assert apart("ic", *run, cwd=place, before=hours_to_load) == [0]
        assert sorted(history(place / name)) == steps
        complete = [path.parent.name for path in (place / name).glob("checkpoints/*/complete")]
        assert complete == [f"checkpoint-{steps[-1]}"]
