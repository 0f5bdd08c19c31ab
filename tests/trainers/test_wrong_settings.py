"""What cannot be trained is refused in one line, and leaves nothing half-made."""

import json
import shutil

import pytest
import torch
from transformers import TrainingArguments

from autoreg_rag.model import AutoRegModel
from autoreg_trainers import training
from autoreg_trainers.settings import CompressionSettings
from tests.trainers.running import flags, last, short_rows, trained


@pytest.fixture
def refusal(here):
    """Run a command; give the one line by which it refuses."""

    def refusal(name, *options, status=1):
        found, output, errors = here(name, *options)
        assert (found, output) == (status, ""), errors
        assert "Traceback" not in errors
        lines = [line for line in errors.splitlines() if "error: " in line]
        assert len(lines) == 1, errors
        return lines[0]

    return refusal


@pytest.fixture
def options(tiny_folder, rows_file, tmp_path):
    return flags(model=tiny_folder, sources=rows_file, max_steps=1, out=tmp_path / "run")


def times(folder):
    """When each file in a folder was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["ic", "cda", "contrastive", "reference"])
def test_data_is_needed(refusal, tiny_folder, tmp_path, name):
    out = tmp_path / "run"
    assert "--sources" in refusal(name, *flags(model=tiny_folder, out=out))
    missing = flags(model=tiny_folder, sources="nowhere.jsonl", out=out)
    assert "nowhere.jsonl" in refusal(name, *missing)
    assert not out.exists()


WRONG = {
    "batch_size": (0, -3, 1000),
    "token_budget": (10,),
    "learning_rate": (0, -1e-3),
    "neck_learning_rate": (0,),
    "epochs": (0,),
    "max_steps": (0, -2),
    "max_minutes": (-1,),
    "warmup": (-0.1, 1, 5),
    "schedule": ("cosinus",),
    "lora_rank": (0,),
    "lora_dropout": (1, 1.5),
    "lora_targets": ("no_such_layer",),
    "num_compress_tokens": (0,),
    "max_length": (0,),
    "logging_steps": (0,),
    "keep_checkpoints": (0,),
    "seed": (-1, 2**32),
    "dtype": ("float7",),
    "device": ("tpu9",),
    "attention": ("no_such_kind",),
    "model": ("no/such/model",),
    "probe": ("no_such_folder",),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named(refusal, options, tmp_path, name):
    for value in WRONG[name]:
        line = refusal("ic", *options, "--" + name.replace("_", "-"), value)
        assert str(value) in line, line
        assert not (tmp_path / "run" / "model").exists()
        assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("ic", "distillation", 2),
        ("ic", "tasks", "dance=1"),
        ("cda", "beta", 0),
        ("cda", "tau", -1),
        ("cda", "negatives", -1),
        ("cda", "in_batch_negatives", -1),
        ("cda", "contrastive_tau", 0),
        ("cda", "teacher_weight", -1),
        ("cda", "teacher_cosine_weight", -1),
        ("contrastive", "tau", 0),
        ("contrastive", "tuning", "bridge"),
        ("contrastive", "teacher_weight", -0.5),
        ("contrastive", "teacher_cosine_weight", -0.5),
    ],
)
def test_a_wrong_value_of_one_kind_of_training_is_named(
    refusal, options, tmp_path, name, setting, value
):
    line = refusal(name, *options, "--" + setting.replace("_", "-"), value)
    assert setting in line or "dance" in line
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting_or_choice_is_one_line_of_usage(refusal, options, tmp_path):
    assert "--batch-size" in refusal("ic", *options, "--batchsize", 3, status=2)
    assert "nan" in refusal("ic", *options, "--learning-rate", "nan", status=2)
    assert "hellinger" in refusal("cda", *options, "--form", "hellinger", status=2)
    file = tmp_path / "run.yaml"
    file.write_text("batch_size: 8\nlearning_rats: 1\n")
    line = refusal("ic", *options, "--config", file)
    assert "line 2" in line
    assert "learning_rate" in line


def test_a_run_that_diverges_is_ended(refusal, options, tmp_path):
    wild = ["--learning-rate", 1e30, "--max-steps", 4, "--save-steps", 1, "--warmup", 0]
    line = refusal("contrastive", *options, *wild)
    kept = last(tmp_path / "run")
    step = int(kept.name.rpartition("-")[2]) + 1
    assert f"step {step}: the gradients are not finite" in line
    assert "--learning-rate" in line
    assert str(kept) in line
    assert not (tmp_path / "run" / "model").exists()
    assert all(value.isfinite().all() for value in trained(tmp_path / "run").values())


def test_a_checkpoint_that_the_disk_has_no_room_for_is_named(refusal, here, options, tmp_path):
    """The optimizer's state is what a checkpoint's largest file holds, and torch writes it."""
    resource = pytest.importorskip("resource")
    kind = resource.RLIMIT_FSIZE  # a file that is too large fails as one on a full disk does
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (48 << 10, hard))
    try:
        line = refusal("ic", *options, "--save-steps", 1)
    finally:
        resource.setrlimit(kind, (soft, hard))
    assert str(tmp_path / "run" / "checkpoints") in line
    assert "--resume" in line
    status, _, errors = here("ic", *options, "--resume", "yes")
    assert status == 0, errors


def test_one_process_trains_on_one_gpu_the_first(refusal, options, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "choose_device", lambda device: torch.device(device))
    line = refusal("ic", *options, "--device", "cuda:1")
    assert "CUDA_VISIBLE_DEVICES=1" in line

    def two_gpus(arguments):
        arguments._n_gpu = 2
        return torch.device("cuda")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(two_gpus))
    settings = CompressionSettings(sources=["rows"], batch_size=32)
    arguments = training._arguments(settings, tmp_path, 0, 1, "cuda")
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 32)


def test_a_folder_that_holds_a_run_is_not_used_again(here, refusal, options, tmp_path):
    assert here("ic", *options)[0] == 0
    before = times(tmp_path / "run")
    line = refusal("ic", *options)
    assert "--resume" in line
    assert str(tmp_path / "run") in line
    assert times(tmp_path / "run") == before


def without_negatives(path, model, *, some):
    """Options of a run on rows of which some or none have a negative."""
    rows = []
    for number, row in zip(range(48), short_rows(60), strict=False):
        rows.append(row if some and number % 2 else {**row, "neg": []})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return flags(model=model, sources=path, max_steps=1, out=path.with_name("run"))


@pytest.mark.parametrize("name", ["cda", "reference"])
def test_alignment_without_any_negative_says_where_they_come_from(
    refusal, here, options, tmp_path, tiny_folder, name
):
    none = without_negatives(tmp_path / "none.jsonl", tiny_folder, some=False)
    line = refusal(name, *none)
    assert "autoreg_trainers.mine" in line
    assert "in_batch_negatives" in line
    assert "in_batch_negatives" in refusal(name, *options, "--negatives", 0)
    assert not (tmp_path / "run").exists()
    status, _, errors = here(name, *none, "--in-batch-negatives", 2)
    assert status == 0, errors


def test_rows_without_negatives_are_left_out_of_alignment(here, tmp_path, tiny_folder, caplog):
    some = without_negatives(tmp_path / "some.jsonl", tiny_folder, some=True)
    status, output, _ = here("reference", *some)
    assert (status, output) == (0, "24 rows scored\n")
    assert "24 of 48 rows have no negative" in caplog.text


def test_references_of_another_model_or_of_other_rows_are_refused(
    here, refusal, options, tiny_folders, tmp_path
):
    kept = ["--references", tmp_path / "scores"]
    assert here("reference", *options, *kept)[0] == 0
    others = {"model": tiny_folders["qwen"], "max-rows": 20, "num-compress-tokens": 2}
    for name, value in others.items():
        line = refusal("cda", *options, *kept, f"--{name}", value)
        assert "belong to other" in line
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["cda", "contrastive", "reference"])
def test_a_teacher_that_is_not_there_is_named_before_anything_is_made(
    refusal, options, tmp_path, teacher_folder, name
):
    for before in ([], [teacher_folder]):
        assert "/no/such" in refusal(name, *options, "--teacher", *before, "/no/such")
        assert not (tmp_path / "run").exists()


def test_vectors_of_other_teachers_are_refused(
    here, refusal, options, tmp_path, teacher_folder, other_folder
):
    teacher = ["--teacher", teacher_folder]
    assert here("contrastive", *options, *teacher)[0] == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # with which other settings would be refused
    for others in ([other_folder], [teacher_folder, other_folder]):
        line = refusal("contrastive", *options, "--teacher", *others, "--resume", "yes")
        assert str(tmp_path / "run" / "teacher") in line
        assert "other teachers" in line


def test_an_adapter_is_not_put_on_a_model_trained_whole(here, refusal, options, tmp_path):
    assert here("ic", *options, "--tuning", "full")[0] == 0
    line = refusal("cda", *options, "--model", tmp_path / "run/model", "--out", tmp_path / "next")
    assert "tuning: full" in line
    assert not (tmp_path / "next" / "model").exists()


def test_merging_needs_an_adapter_and_a_new_folder(here, refusal, options, tmp_path, tiny_folder):
    assert "no adapter" in refusal("merge", tiny_folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert "nowhere" in refusal("merge", tmp_path / "nowhere", tmp_path / "merged")
    assert here("ic", *options)[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert "not empty" in refusal("merge", tmp_path / "run/model", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert here("merge", tmp_path / "run/model", tmp_path / "merged")[0] == 0
    AutoRegModel.from_pretrained(tmp_path / "merged", device="cpu")
