"""Two processes train as one does with the same batches."""

import json
import os
from pathlib import Path

import pytest

from autoreg_trainers.trainer import AutoRegTrainer
from tests.trainers.running import apart, flags, history, launched, trained

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gloo's processes are started by a fork")

SAME = {"max_steps": 4, "save_steps": 2, "eval_steps": 2, "weight_decay": 0.1, "warmup": 0}
KINDS = {
    "ic": {"tasks": ["reconstruct=1"]},
    "cda": {"beta": 1},
    "contrastive": {"tuning": "full", "batches": "source"},
}


STILL = ["--learning-rate", 1e-30, "--weight-decay", 0]
STATE = "checkpoints/checkpoint-4/trainer_state.json"
CONFIGURATIONS = Path(__file__).parents[2] / "trainers" / "configs" / "accelerate"


def assert_same_run(run, alone, start):
    """The same to rounding: of losses, and of what the weights have moved by."""
    found, expected = history(run), history(alone)
    assert sorted(found) == sorted(expected) == [1, 2, 3, 4]
    for step, entry in expected.items():
        for name in {"loss", "grad_norm", "nll", "s2", "margin", "ranked_first"} & entry.keys():
            assert found[step][name] == pytest.approx(entry[name], rel=1e-4, abs=1e-5), (step, name)
    found, expected, before = trained(run), trained(alone), trained(start)
    assert found.keys() == expected.keys() == before.keys()
    for name, value in expected.items():
        moved = (value - before[name]).norm()
        assert (found[name] - value).norm() <= 1e-3 * moved, name


def assert_same_held_back(run, alone):
    """The same figures on held-back rows, to rounding, at steps 2 and 4; return the first run's."""
    logs = [json.loads((each / STATE).read_text())["log_history"] for each in (run, alone)]
    found, expected = ([entry for entry in log if "eval_loss" in entry] for log in logs)
    assert [entry["step"] for entry in found] == [2, 4]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    return found


def smooth(rank):
    """Have Adam keep small gradients small: it would make steps of their rounding errors."""
    create = AutoRegTrainer.create_optimizer

    def smoothed(self, *args):
        self.args.adam_epsilon = 0.01
        return create(self, *args)

    AutoRegTrainer.create_optimizer = smoothed


@pytest.fixture(scope="module", params=KINDS)
def alone(request, place, rows_file, tiny_folder):
    """Options of a run, its folder, and that of one whose learning rate is as good as none."""
    name = request.param
    options = flags(model=tiny_folder, sources=rows_file, **SAME, **KINDS[name])
    run, start = place / f"{name}-alone", place / f"{name}-start"
    assert apart(name, *options, "--out", run, cwd=place, before=smooth) == [0]
    assert apart(name, *options, *STILL, "--out", start, cwd=place) == [0]
    return name, options, run, start


def test_two_processes_train_as_one(alone, place):
    name, options, run, start = alone
    out = place / f"{name}-two"
    assert apart(name, *options, "--out", out, count=2, cwd=place, before=smooth) == [0, 0]
    assert_same_run(out, run, start)
    # Of the six rows held back the second process has none.
    assert_same_held_back(out, run)


def test_the_launcher_starts_them(place, rows_file, tiny_folder, alone):
    name, options, _, start = alone
    if name != "ic":
        pytest.skip("one kind will do")
    out = place / f"{name}-launched"
    configuration = CONFIGURATIONS / "ddp.yaml"
    run = [*options, *STILL, "--out", out]
    module = f"autoreg_trainers.{name}"
    printed = launched(module, *run, configuration=configuration, cwd=place)
    figures = json.loads(printed)  # of one process alone
    assert figures.keys() >= {"eval_loss", "eval_no_context"}
    found, expected = history(out), history(start)
    for step in range(1, 5):
        for key in ("loss", "grad_norm", "nll"):
            assert found[step][key] == pytest.approx(expected[step][key], rel=1e-4)
    assert (out / "curve.png").is_file()
    # Each has its own draws to go on from.
    assert len(list((out / "checkpoints" / "checkpoint-4").glob("rng_state*"))) == 2


def fail_once(rank):
    """Have the second process run out of memory in the midst of its second step."""
    smooth(rank)
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
    assert apart(name, *stopped, "--max-minutes", 0, count=2, cwd=place, before=smooth) == [0, 0]
    assert sorted(history(out)) == [1]
    assert apart(name, *stopped, "--resume", "yes", count=2, cwd=place, before=smooth) == [0, 0]
    assert_same_run(out, run, start)
