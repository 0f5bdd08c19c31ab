"""A run does not go on with settings that would make another of it."""

import shutil

import pytest

from autoreg_rag.errors import ModelError
from autoreg_trainers.arguments import save_effective
from autoreg_trainers.resuming import check_same_run
from autoreg_trainers.settings import AlignmentTrainingSettings, TrainingSettings
from tests.trainers.running import flags


@pytest.fixture
def go_on(tmp_path):
    """Go on with a run of some settings, with others; settings are given by name."""

    def go_on(begun, now, kind=TrainingSettings):
        both = [kind(**{"sources": ["rows.jsonl"], **values}) for values in (begun, now)]
        save_effective(both[0], tmp_path / "settings.yaml")
        check_same_run(both[1], tmp_path / "settings.yaml")

    return go_on


@pytest.fixture
def refused(go_on):
    """What is said where that is refused."""

    def refused(*settings):
        with pytest.raises(ModelError) as caught:
            go_on(*settings)
        return str(caught.value)

    return refused


def test_what_changes_the_learning_is_named_with_both_values(refused):
    said = refused({"tuning": "full", "seed": 3}, {"lora_rank": 8, "tuning": "lora", "seed": 3})
    assert "tuning was 'full' and is now 'lora'" in said
    assert "lora_rank was 32 and is now 8" in said
    assert "--out" in said
    assert "\n" not in said
    assert "seed" not in said
    assert "learning_rate was 0.0001" in refused({}, {"learning_rate": 1e-3})


def test_length_and_place_of_a_run_may_change(go_on):
    now = {
        **{"max_steps": 9, "epochs": 3, "max_minutes": 5, "save_steps": 2, "token_budget": 64},
        **{"probe": "sets", "device": "cpu", "dtype": "float32", "compile": "no", "out": "./run"},
        **{"resume": True, "references": "scores"},
    }
    go_on({}, now, AlignmentTrainingSettings)


def test_one_place_may_be_spelt_in_many_ways(go_on, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "others.jsonl", "model", "other"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("model")
    whole = [f"{tmp_path}/rows.jsonl:weight=2", {"path": "./others.jsonl"}]
    begun = {"sources": ["rows.jsonl:weight=2", "others.jsonl"], "model": "link"}
    kind = AlignmentTrainingSettings
    begun["teacher"] = ["model", "owner/name"]
    now = {"sources": whole, "model": str(tmp_path / "model"), "teacher": ["./link", "owner/name"]}
    go_on(begun, now, kind)
    assert "model" in refused(begun, {**now, "model": "other"}, kind)
    assert "teacher" in refused(begun, {**now, "teacher": ["owner/name", "model"]}, kind)


def test_of_many_sources_those_that_differ_are_named(refused):
    many = [f"{number}.jsonl" for number in range(99)]
    begun, now = [*many, "old.jsonl:weight=1"], ["old.jsonl:weight=2", *many]
    said = refused({"sources": begun}, {"sources": now})
    assert "sources was ['old.jsonl:weight=1'] and is now ['old.jsonl:weight=2']" in said
    said = refused({"sources": many[:2]}, {"sources": many[1::-1]})
    assert "['0.jsonl', '1.jsonl'] and is now ['1.jsonl', '0.jsonl']" in said


def test_settings_of_another_version_are_compared_as_far_as_both_have_them(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("sources: [rows.jsonl]\nforgotten: 3\nseed: 1\n")
    check_same_run(TrainingSettings(["rows.jsonl"], seed=1, lora_rank=2), file)
    with pytest.raises(ModelError, match="seed was 1 and is now 0"):
        check_same_run(TrainingSettings(["rows.jsonl"]), file)


def test_a_run_refuses_before_anything_is_written(here, tmp_path, tiny_folder, rows_file):
    out = tmp_path / "run"
    options = flags(model=tiny_folder, sources=rows_file, max_steps=1, out=out)
    assert here("contrastive", *options)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    shutil.copy(rows_file, tmp_path / "others.jsonl")
    shutil.copytree(tiny_folder, tmp_path / "other")
    for name, value in {
        "tuning": "full",
        "lora-rank": 2,
        "model": tmp_path / "other",
        "sources": tmp_path / "others.jsonl",
    }.items():
        status, output, errors = here(
            "contrastive", *options, "--resume", "yes", f"--{name}", value
        )
        assert (status, output) == (1, "")
        assert "Traceback" not in errors
        (line,) = [line for line in errors.splitlines() if "error: " in line]
        assert f"{name.replace('-', '_')} was" in line
        assert str(value) in line
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    # A checkpoint of a version that wrote no settings is gone on from as ever.
    (out / "settings.yaml").unlink()
    assert here("contrastive", *options, "--resume", "yes", "--max-steps", 2)[0] == 0
    assert (out / "settings.yaml").is_file()
