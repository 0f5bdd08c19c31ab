"""Two processes train as one does with the same batches."""

import json
import os

import pytest

from autoreg_trainers.trainer import AutoRegTrainer
from tests.trainers.running import apart, flags, history, launched, weights

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gloo's processes are started by a fork")

SAME = {"max_steps": 4, "save_steps": 2, "weight_decay": 0.1, "warmup": 0}
KINDS = {
    "ic": {"tasks": ["reconstruct=1"]},
    "cda": {"beta": 1},
    "contrastive": {"tuning": "full"},
}


def assert_same_run(run, alone, start):
    """The same to rounding: of losses, and of what the weights have moved by."""
    found, expected = history(run), history(alone)
    assert sorted(found) == sorted(expected) == [1, 2, 3, 4]
    for step, entry in expected.items():
        for name in {"loss", "grad_norm", "nll", "s2", "margin", "ranked_first"} & entry.keys():
            assert found[step][name] == pytest.approx(entry[name], rel=1e-3, abs=1e-5), (step, name)
    found, expected, before = weights(run), weights(alone), weights(start)
    assert found.keys() == expected.keys() == before.keys()
    for name, value in expected.items():
        moved = (value - before[name]).float().norm()
        assert (found[name] - value).float().norm() <= 0.02 * moved, name


@pytest.fixture(scope="module", params=KINDS)
def alone(request, place, rows_file, tiny_folder):
    """Options of a run, its folder, and that of one whose learning rate is as good as none."""
    name = request.param
    options = flags(model=tiny_folder, sources=rows_file, **SAME, **KINDS[name])
    run, start = place / f"{name}-alone", place / f"{name}-start"
    assert apart(name, *options, "--out", run, cwd=place) == [0]
    still = ["--learning-rate", 1e-30, "--weight-decay", 0, "--max-steps", 1]
    assert apart(name, *options, *still, "--out", start, cwd=place) == [0]
    return name, options, run, start


def test_two_processes_train_as_one(alone, place):
    name, options, run, start = alone
    out = place / f"{name}-two"
    if name == "ic":  # by the launcher itself
        printed = launched(name, *options, "--out", out, count=2, cwd=place)
        figures = json.loads(printed)  # of one process alone
        logged = json.loads((run / "checkpoints/checkpoint-4/trainer_state.json").read_text())
        assert figures["eval_loss"] < logged["log_history"][0]["loss"] + 1
    else:
        assert apart(name, *options, "--out", out, count=2, cwd=place) == [0, 0]
    assert (out / "curve.png").is_file()
    assert_same_run(out, run, start)


def fail_once(rank):
    """Have the second process run out of memory in the midst of its second step."""
    if rank == 0:
        return
    parts = AutoRegTrainer._parts
    failed = []

    def failing(self, rows):
        for number, part in enumerate(parts(self, rows)):
            yield part
            if self.state.global_step == 1 and number == 0 and not failed:
                failed.append(True)
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    AutoRegTrainer._parts = failing


def test_a_process_that_runs_out_of_memory_starts_its_step_over_while_others_wait(alone, place):
    name, options, run, start = alone
    if name == "contrastive":
        pytest.skip("its passes wait for each other, so that none can start over")
    out = place / f"{name}-short"
    assert apart(name, *options, "--out", out, count=2, cwd=place, before=fail_once) == [0, 0]
    assert_same_run(out, run, start)


def test_a_run_of_two_processes_is_resumed_by_two(alone, place):
    name, options, run, start = alone
    out = place / f"{name}-resumed"
    stopped = [*options, "--out", out]
    assert apart(name, *stopped, "--max-minutes", 0, count=2, cwd=place) == [0, 0]
    assert sorted(history(out)) == [1]
    assert apart(name, *stopped, "--resume", "yes", count=2, cwd=place) == [0, 0]
    assert_same_run(out, run, start)
