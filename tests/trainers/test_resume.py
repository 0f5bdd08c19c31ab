"""A run that is killed, or told to stop, goes on as if nothing had happened."""

import json
import os
import shutil
import signal

import pytest
import torch

from autoreg_trainers import bridge, checkpoints, trainer
from autoreg_trainers.checkpoints import COMPLETE_FILE, steps_done
from autoreg_trainers.trainer import AutoRegTrainer
from tests.trainers.running import apart, flags, history, last, weights

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")

STEPS = 11
"""Of two epochs and more: 42 rows are trained on, in batches of 8."""

SAME = {"epochs": 3, "max_steps": STEPS, "save_steps": 3, "keep_checkpoints": 1}
KINDS = {
    "ic": {"lora_dropout": 0.2, "tasks": ["reconstruct=1"]},
    "cda": {"tuning": "full", "beta": 1},
    "contrastive": {"batches": "source"},
}
TOLD = ("loss", "grad_norm", "learning_rate", "nll", "s1", "s2", "margin", "info_nce")


def die_at_step(rank, step):
    """Have the process kill itself in the middle of a step."""
    work = AutoRegTrainer.training_step

    def killed(self, *args, **kwargs):
        result = work(self, *args, **kwargs)
        if self.state.global_step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    AutoRegTrainer.training_step = killed


def die_in_checkpoint(rank, step, name):
    """Have the process kill itself before it writes a certain file of a checkpoint."""
    write = checkpoints.write_whole

    def killed(path, content):
        if path.name == name and path.parent.name == f"checkpoint-{step}":
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    checkpoints.write_whole = trainer.write_whole = killed


def assert_same_run(run, whole, steps=STEPS):
    found, expected = history(run), history(whole)
    assert sorted(found) == sorted(expected) == list(range(1, steps + 1))
    for step, entry in expected.items():
        for name in set(TOLD) & entry.keys():
            assert found[step][name] == entry[name], (step, name)
    found, expected = weights(run), weights(whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module", params=KINDS)
def started(request, place, rows_file, tiny_folder):
    """Options of a run, and one that nothing has interrupted."""
    name = request.param
    options = flags(
        model=tiny_folder,
        sources=rows_file,
        **SAME,
        **KINDS[name],
    )
    whole = place / f"{name}-whole"
    assert apart(name, *options, "--out", whole, cwd=place) == [0]
    return name, options, whole


def test_a_killed_run_goes_on_with_the_same_losses_to_the_same_model(started, place):
    name, options, whole = started
    out = place / f"{name}-killed"

    def go_on(before, *given):
        run = [*options, "--out", out, "--resume", "yes"]
        return apart(name, *run, cwd=place, before=before, given=given)

    def complete():
        return sorted(path.parent.name for path in out.glob(f"checkpoints/*/{COMPLETE_FILE}"))

    killed = [-signal.SIGKILL]
    assert go_on(die_at_step, 5) == killed
    assert complete() == ["checkpoint-3"]
    assert go_on(die_in_checkpoint, 6, COMPLETE_FILE) == killed
    # All of its files are there, but nobody has said so.
    assert (out / "checkpoints" / "checkpoint-6" / "optimizer.pt").is_file()
    assert complete() == ["checkpoint-3"]
    assert go_on(die_in_checkpoint, 6, "trainable.safetensors") == killed
    assert go_on(die_at_step, 8) == killed
    assert complete() == ["checkpoint-6"]
    assert not (out / "model").exists()
    assert go_on(None) == [0]
    assert complete() == [f"checkpoint-{STEPS}"]
    assert_same_run(out, whole)


def test_a_run_that_time_has_stopped_can_be_finished(started, place):
    name, options, whole = started
    out = place / f"{name}-stopped"
    run = [*options, "--out", out]
    assert apart(name, *run, "--max-minutes", 0, cwd=place) == [0]
    assert sorted(history(out)) == [1]
    assert (out / "checkpoints" / "checkpoint-1" / COMPLETE_FILE).is_file()
    stopped = weights(out)
    assert apart(name, *run, "--resume", "yes", cwd=place) == [0]
    assert_same_run(out, whole)
    assert any(not torch.equal(value, stopped[key]) for key, value in weights(out).items())


def test_two_processes_go_on_with_the_rows_of_a_later_pass(place, rows_file, tiny_folder):
    folder = place / "halves"
    folder.mkdir()
    lines = rows_file.read_text().splitlines(keepends=True)
    for name, part in (("a", lines[:24]), ("b", lines[24:])):
        (folder / f"{name}.jsonl").write_text("".join(part))
    options = flags(
        model=tiny_folder, sources=folder, **SAME, batches="source", schedule="constant"
    )
    whole, out = place / "two-whole", place / "two-stopped"
    for run, *steps in ((whole, STEPS), (out, 7, STEPS)):
        for step in steps:
            given = [*options, "--out", run, "--resume", "yes", "--max-steps", step]
            assert apart("contrastive", *given, count=2, cwd=place) == [0, 0]
    assert_same_run(out, whole)


def test_a_run_that_has_ended_is_left_as_it_is_or_made_longer(started, place):
    name, options, whole = started
    if name != "ic":
        pytest.skip("one kind will do")
    out = place / f"{name}-ended"
    run = [*options, "--out", out, "--schedule", "constant", "--resume", "yes"]
    long, whole = [*run, "--max-steps", 6], place / f"{name}-long"
    assert apart(name, *run, "--max-steps", 3, cwd=place) == [0]
    ended = weights(out)
    shutil.rmtree(out / "model")
    assert apart(name, *run, "--max-steps", 3, cwd=place) == [0]
    assert sorted(history(out)) == [1, 2, 3]
    assert all(torch.equal(value, ended[key]) for key, value in weights(out).items())
    assert (out / "curve.png").is_file()
    assert not (place / "runs").exists()  # where TensorBoard writes unless it is told
    assert apart(name, *long, cwd=place) == [0]
    assert apart(name, *long, "--out", whole, cwd=place) == [0]
    assert_same_run(out, whole, steps=6)


def test_what_is_told_of_a_run_may_change_when_it_goes_on(place, rows_file, tiny_folder):
    options = flags(model=tiny_folder, sources=rows_file, schedule="constant", epochs=3)
    run = [*options, "--out", place / "told", "--resume", "yes", "--keep-checkpoints", 9]
    assert apart("contrastive", *run, "--max-steps", 2, cwd=place) == [0]
    changed = ["--logging-steps", 3, "--eval-steps", 4, "--save-steps", 5, "--max-steps", 8]
    assert apart("contrastive", *run, *changed, cwd=place) == [0]
    assert sorted(history(place / "told")) == [1, 2, 3, 6]
    entries = json.loads((last(place / "told") / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in entries if "eval_loss" in entry] == [4, 8]
    checkpoints = (place / "told" / "checkpoints").glob(f"*/{COMPLETE_FILE}")
    assert {steps_done(path.parent) for path in checkpoints} == {2, 5, 8}


def test_a_run_that_has_ended_tells_the_same_figures_again(
    here, monkeypatch, tmp_path, rows_file, tiny_folder
):
    fitted = []
    fit = bridge.fit_bridge
    monkeypatch.setattr(bridge, "fit_bridge", lambda *given: fitted.append(1) or fit(*given))
    options = flags(model=tiny_folder, sources=rows_file, max_steps=2, resume="yes")
    first, again = (here("ic", *options, "--out", tmp_path / "run") for _ in range(2))
    assert first[0] == again[0] == 0
    assert json.loads(again[1]) == pytest.approx(json.loads(first[1]), rel=1e-5)
    assert json.loads(again[1]).keys() >= {"eval_no_context", "eval_gain", "eval_content"}
    assert len(fitted) == 1


@pytest.mark.parametrize("name", ["ic", "contrastive"])
def test_a_run_does_not_go_on_with_what_a_file_holds_now(
    here, tmp_path, rows_file, tiny_folder, name
):
    lines = rows_file.read_text().splitlines(keepends=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(lines[:30]))
    options = flags(model=tiny_folder, sources=rows, resume="yes", out=tmp_path / "run")
    assert here(name, *options, "--max-steps", 1)[0] == 0
    rows.write_text("".join(lines[1:31]))
    status, _, error = here(name, *options, "--max-steps", 2)
    assert status == 1
    assert f"{tmp_path / 'run'}" in error.splitlines()[-1]
    assert "begun on other rows" in error.splitlines()[-1]
    rows.write_text("".join(lines[:30]))
    assert here(name, *options, "--max-steps", 2)[0] == 0


def test_a_figure_that_is_no_number_is_left_out(here, tmp_path, rows_file, tiny_folder):
    """One held-back row has no pair to be uniform."""
    options = flags(model=tiny_folder, sources=rows_file, max_steps=1, held_back=1)
    status, output, _ = here("contrastive", *options, "--out", tmp_path / "run")
    assert status == 0
    assert "eval_loss" in json.loads(output)
    assert "NaN" not in output
