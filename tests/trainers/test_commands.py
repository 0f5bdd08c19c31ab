"""Every command as a user runs it, and what it leaves."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autoreg_rag.model import AutoRegModel
from autoreg_trainers.arguments import parse
from autoreg_trainers.trainer import AutoRegTrainer
from tests.trainers.plain import loaded
from tests.trainers.running import SETTINGS, command, flags, heard, history, weights

TEXTS = ["A man is holding literature", "The Stewart Dynasty", "Education about science."]


@pytest.fixture(scope="module")
def chain(place, rows_file, tiny_folder):
    """The way to an aligned model, command after command; what each printed, and the options."""
    same = {"sources": rows_file, "max_steps": 4, "save_steps": 2}
    ic = flags(model=tiny_folder, out="ic", **same)
    aligned = flags(model="ic/model", references="scores", out="cda", **same)
    printed = {"ic": command("ic", *ic, cwd=place)}
    printed["reference"] = command("reference", *aligned, cwd=place)
    made = {path.name: path.read_bytes() for path in (place / "scores").iterdir()}
    printed["cda"] = command("cda", *aligned, cwd=place)
    printed["merge"] = command("merge", "cda/model", "merged", cwd=place)
    return printed, {"ic": ic, "cda": aligned}, made


@pytest.mark.parametrize(("run", "stage"), [("ic", "ic"), ("cda", "cda")])
def test_a_run_leaves_a_model_that_loads(chain, place, run, stage):
    model = loaded(place / run / "model")
    assert model.config.stage == stage
    vectors = model.encode_queries(TEXTS)
    assert vectors.shape == (3, model.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    before = weights(place / "ic")
    if run == "cda":
        after = weights(place / "cda")
        assert after.keys() == before.keys()
        assert any(not torch.equal(after[name], before[name]) for name in before)


def test_standard_output_is_one_object_of_figures_on_rows_held_back(chain):
    figures = json.loads(chain[0]["ic"])
    assert figures["eval_loss"] == pytest.approx(figures["eval_nll"])
    assert figures["eval_gain"] == pytest.approx(
        figures["eval_no_context"] - figures["eval_loss"], abs=1e-6
    )
    figures = json.loads(chain[0]["cda"])
    assert {"eval_loss", "eval_s1", "eval_s2", "eval_margin", "eval_s1_saturated"} <= set(figures)
    assert {"eval_alignment", "eval_uniformity", "eval_effective_rank"} <= set(figures)


@pytest.mark.parametrize(("every", "steps"), [(0, [4]), (2, [2, 4]), (3, [3, 4])])
def test_held_back_rows_are_read_once_at_the_end(
    rows_file, tiny_folder, tmp_path, monkeypatch, capsys, every, steps
):
    read, evaluate = [], AutoRegTrainer.evaluate

    def counted(self, *args, **options):
        read.append(self.state.global_step)
        return evaluate(self, *args, **options)

    monkeypatch.setattr(AutoRegTrainer, "evaluate", counted)
    same = {"model": tiny_folder, "sources": rows_file, "max_steps": 4}
    status, output, _ = heard(capsys, "ic", *flags(**same, eval_steps=every, out=tmp_path / "run"))
    assert (status, read) == (0, steps)
    assert "eval_gain" in json.loads(output)


@pytest.mark.parametrize("run", ["ic", "cda"])
def test_the_settings_that_were_saved_give_themselves(chain, place, run, monkeypatch):
    monkeypatch.chdir(place)
    given = parse(SETTINGS[run], "", chain[1][run])
    again = parse(SETTINGS[run], "", ["--config", f"{run}/settings.yaml"])
    assert again == given
    assert dataclasses.asdict(again)["max_steps"] == 4


@pytest.mark.parametrize("run", ["ic", "cda"])
def test_a_run_leaves_its_curve_its_checkpoints_and_its_events(chain, place, run):
    assert (place / run / "curve.png").read_bytes().startswith(b"\x89PNG")
    checkpoints = sorted(path.parent.name for path in (place / run).glob("*/*/complete"))
    assert checkpoints == ["checkpoint-2", "checkpoint-4"]
    (folder,) = (place / run / "checkpoints" / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    logged = history(place / run)
    assert sorted(logged) == [1, 2, 3, 4]
    for name in ("loss", "grad_norm", "learning_rate"):
        seen = {event.step: event.value for event in events.Scalars(f"train/{name}")}
        assert seen == pytest.approx({step: logged[step][name] for step in logged}, rel=1e-6)


def test_alignment_takes_the_reference_scores_that_are_there(chain, place):
    printed, _, made = chain
    assert printed["reference"].split()[0] == "48"
    assert {path.name: path.read_bytes() for path in (place / "scores").iterdir()} == made
    assert not (place / "cda" / "references").exists()
    # Before the first step nothing has been gained on any text.
    assert history(place / "cda")[1]["reward_margin"] == pytest.approx(0, abs=1e-4)


def test_a_merged_model_is_the_one_with_the_adapter(chain, place):
    apart, merged = loaded(place / "cda" / "model"), loaded(place / "merged")
    assert list(apart.backbone.adapter_parameters()) != []
    assert list(merged.backbone.adapter_parameters()) == []
    assert merged.config == apart.config
    base = loaded(place / "ic" / "model").encode_documents(TEXTS)
    own, ours = apart.encode_documents(TEXTS), merged.encode_documents(TEXTS)
    # Its weights are rounded to bfloat16, 8 bits.
    np.testing.assert_allclose(ours, own, atol=0.02)
    assert np.abs(ours - own).max() < np.abs(own - base).max()
    latents = apart.compress(TEXTS)
    torch.testing.assert_close(
        merged.log_likelihood(latents, TEXTS), apart.log_likelihood(latents, TEXTS)
    )


VARIANTS = [
    ("ic", {"distillation": 0.5, "tasks": ["reconstruct=1"]}),
    ("ic", {"tuning": "full"}),
    ("ic", {"pooling": "concat", "num_compress_tokens": 2}),
    ("cda", {"form": "log_ratio", "reduction": "mean"}),
    ("cda", {"form": "log_sigmoid", "tuning": "full"}),
    ("cda", {"form": "kl"}),
    ("cda", {"form": "js", "reduction": "mean"}),
    ("cda", {"in_batch_negatives": 2}),
    ("cda", {"in_batch_negatives": 7, "contrastive_weight": 0.5, "negatives": 0}),
    ("cda", {"compression_weight": 0.5, "negatives": 0}),
    ("contrastive", {}),
    ("contrastive", {"batches": "source"}),
    ("contrastive", {"tuning": "full", "negatives": 0}),
]


@pytest.mark.parametrize(
    ("name", "settings"), VARIANTS, ids=[f"{name}-{list(s.values())}" for name, s in VARIANTS]
)
def test_each_kind_of_training_changes_the_model(
    here, place, tmp_path, rows_file, tiny_folder, name, settings
):
    out = tmp_path / "run"
    options = flags(
        model=tiny_folder, sources=rows_file, max_steps=3, warmup=0, max_rows=30, out=out
    )
    status, output, errors = here(name, *options, *flags(**settings))
    assert status == 0, errors
    figures = json.loads(output)
    assert all(np.isfinite(value) for value in figures.values())
    steps = history(out)
    assert sorted(steps) == [1, 2, 3]
    assert all(np.isfinite(steps[step]["loss"]) and steps[step]["grad_norm"] > 0 for step in steps)
    model = loaded(out / "model")
    assert model.config.stage == name
    assert (model.tuned is not None) == (settings.get("tuning") == "full")
    kept = {"pooling", "num_compress_tokens"} & settings.keys()
    untrained = AutoRegModel.from_pretrained(
        tiny_folder, dtype="float32", device="cpu", **{field: settings[field] for field in kept}
    )
    assert np.abs(model.encode_queries(TEXTS) - untrained.encode_queries(TEXTS)).max() > 1e-3
    if settings.get("in_batch_negatives") == 7:
        assert "eval_info_nce" in figures
    if settings.get("distillation"):  # the loss is a mix, the likelihood is told beside it
        assert figures["eval_loss"] != pytest.approx(figures["eval_nll"])
