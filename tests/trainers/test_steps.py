"""A step's gradients and figures, however the batch is worked off."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from autoreg_trainers.objectives import Alignment, AlignmentSettings, Compression
from autoreg_trainers.trainer import MIN_TOKEN_BUDGET, AutoRegTrainer
from tests.forkserver import processes
from tests.trainers.plain import (
    assert_same_gradients,
    examples,
    prepared,
    triplets,
    with_own_references,
)
from tests.trainers.running import apart, flags, history, weights

LARGE = 1 << 20
"""A budget that holds any batch here."""

ROUNDING = {"reward_margin": 1e-4}
"""What float32 leaves open of a difference of sums of about 100 nats."""


def make_trainer(objective, rows, folder):
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=len(rows),
        use_cpu=True,
        report_to=[],
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    return AutoRegTrainer(objective, arguments, neck_learning_rate=1e-2, train_dataset=rows)


def step(objective, rows, folder):
    """Return the loss, gradients and figures of one step."""
    trainer = make_trainer(objective, rows, folder)
    loss = trainer.training_step(objective, trainer.data_collator(rows))
    gradients = {
        name: value.grad.clone()
        for name, value in objective.named_parameters()
        if value.requires_grad
    }
    return float(loss), gradients, trainer._drained(), trainer


def assert_same_step(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert_same_gradients(found[1], expected[1])
    assert found[2].keys() == expected[2].keys()
    for name, value in expected[2].items():
        assert_same_figure(name, found[2][name], value)


def assert_same_figure(name, found, expected):
    assert found == pytest.approx(expected, rel=1e-4, abs=ROUNDING.get(name, 1e-5)), name


@pytest.fixture(params=["compression", "alignment", "in-batch"])
def made(request, tiny_folder):
    """Makes the objective anew, with a budget; and its rows."""
    if request.param == "compression":

        def make(budget):
            return Compression(prepared(tiny_folder), budget)

        return make, examples(make(LARGE).model)

    settings = AlignmentSettings(beta=0.3, in_batch_negatives=2 * (request.param == "in-batch"))

    def make(budget):
        return Alignment(prepared(tiny_folder), budget, settings)

    objective = make(LARGE).eval()
    rows = triplets(objective.model, negatives=(2, 0, 1, 3, 1))
    return make, with_own_references(objective, rows)


@pytest.mark.parametrize("budget", [64, 150])
def test_gradients_and_figures_do_not_depend_on_the_budget(made, budget, tmp_path):
    make, rows = made
    whole, parts = make(LARGE), make(budget)
    assert len(list(whole.parts(rows, LARGE))) == 1
    assert len(list(parts.parts(rows, budget))) > 1 or not parts.separable
    assert_same_step(step(parts, rows, tmp_path), step(whole, rows, tmp_path))


def test_the_loss_is_the_mean_over_all_units_of_the_batch(made, tmp_path):
    make, rows = made
    loss, _, figures, _ = step(make(100), rows, tmp_path)
    objective = make(LARGE).train()
    # Each row alone where the loss is a sum over rows: tokens count alike, not rows or parts.
    groups = [[row] for row in rows] if objective.separable else [rows]
    outcomes = [objective(group) for group in groups]
    units = sum(outcome.units for outcome in outcomes)
    assert units == sum(map(objective.units, rows))
    mean = sum(float(outcome.loss.detach()) for outcome in outcomes) / units
    assert loss == pytest.approx(mean, rel=1e-5)
    for name, value in figures.items():
        sums = [outcome.sums[name] for outcome in outcomes if name in outcome.sums]
        if sums:
            total, count = map(sum, zip(*sums, strict=True))
            assert_same_figure(name, value, total / count)


def failing_once(objective, error, *, call):
    """Have the objective's pass of this number fail, after it was made."""
    calls = []

    def hook(*_):
        calls.append(True)
        if len(calls) == call:
            raise error

    objective.register_forward_hook(hook)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_step_that_runs_out_of_memory_is_made_again_in_smaller_parts(made, error, tmp_path):
    make, rows = made
    undisturbed = step(make(200), rows, tmp_path)
    objective = make(200)
    failing_once(objective, error, call=2 if objective.separable else 1)
    found = step(objective, rows, tmp_path)
    assert_same_step(found, undisturbed)
    trainer = found[3]
    assert trainer.token_budget == objective.token_budget == 100


def test_other_errors_pass(made, tmp_path):
    make, rows = made
    objective = make(200)
    failing_once(objective, RuntimeError("shapes do not match"), call=1)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        step(objective, rows, tmp_path)


def test_a_step_that_never_fits_ends_with_the_error_itself(made, tmp_path):
    make, rows = made
    objective = make(200)

    def hook(*_):
        raise MemoryError("no more")

    objective.register_forward_hook(hook)
    with pytest.raises(MemoryError, match="no more"):
        step(objective, rows, tmp_path)
    assert objective.token_budget <= MIN_TOKEN_BUDGET


def test_a_run_goes_on_after_it_ran_out_of_memory(place, rows_file, tiny_folder):
    options = flags(model=tiny_folder, sources=rows_file, max_steps=4, tasks="reconstruct=1")
    for name, before in (("calm", None), ("short", fail_in_second_step)):
        assert apart("ic", *options, "--out", place / name, cwd=place, before=before) == [0]
    calm, short = history(place / "calm"), history(place / "short")
    assert [entry["token_budget"] for entry in short.values()] == [150, 75, 75, 75]
    for number, entry in calm.items():
        for key in ("loss", "grad_norm", "nll"):
            assert short[number][key] == pytest.approx(entry[key], rel=1e-3)
    assert weights(place / "short").keys() == weights(place / "calm").keys()
    printed = json.loads((place / "short/checkpoints/checkpoint-4/trainer_state.json").read_text())
    assert printed["global_step"] == 4


def fail_in_second_step(rank):
    """Have the second step fail once."""
    work = AutoRegTrainer._gradients
    failed = []

    def failing(self, *args):
        result = work(self, *args)
        if self.state.global_step == 1 and not failed:
            failed.append(True)
            raise MemoryError
        return result

    AutoRegTrainer._gradients = failing


ROOM = 120 << 20
"""Less than a third of what the whole batch takes."""


def within_limits(folder, out, room):
    """Make a step of long rows with so much memory that is not yet taken, or without a limit."""
    import resource

    torch.set_num_threads(1)
    objective = Compression(prepared(folder, attention="eager"), 16384)
    row = {"context": [5] * 200, "suffix": [6] * 4, "target": [7, 8, 9]}
    rows = [{**row, "context": [10 + i, *row["context"]]} for i in range(70)]
    if room:
        step(
            Compression(prepared(folder, attention="eager"), 16384), rows[:2], out
        )  # what is loaded late
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + room
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    loss, gradients, _, trainer = step(objective, rows, out)
    if room:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    numbers = {"loss": torch.tensor(loss), "budget": torch.tensor(trainer.token_budget)}
    save_file({**gradients, **numbers}, out / f"{room}.safetensors")
    os._exit(0)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process's memory are Linux's")
def test_when_memory_really_runs_out(tiny_folder, tmp_path):
    for room in (0, ROOM):
        child = processes.Process(target=within_limits, args=(tiny_folder, tmp_path, room))
        child.start()
        child.join(120)
        assert child.exitcode == 0
    free, limited = (load_file(tmp_path / f"{room}.safetensors") for room in (0, ROOM))
    assert free.pop("budget") == 16384
    assert limited.pop("budget") < 16384
    assert_same_gradients(limited, free)
