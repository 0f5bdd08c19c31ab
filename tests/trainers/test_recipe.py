"""The default model's recipe, on a few rows of the real base."""

import gzip
import json
import runpy
from pathlib import Path

import pytest
import torch

from autoreg_rag.config import AutoRegConfig
from autoreg_rag.model import AutoRegModel
from tests.commands import command

SCRIPT = Path(__file__).parents[2] / "trainers" / "recipes" / "default_model.py"


def recipe(*options, cwd):
    return command(SCRIPT, *options, cwd=cwd, forks=True)


@pytest.fixture
def data(tmp_path, rows_file):
    folder = tmp_path / "data"
    folder.mkdir()
    half = len(lines := rows_file.read_text().splitlines(keepends=True)) // 2
    (folder / "rows.jsonl").write_text("".join(lines[:half]))
    with gzip.open(folder / "nq_oracle.jsonl.gz", "wt") as named:  # in the second round's list
        named.writelines(lines[half:])
    passages = [{"text": json.loads(line)["pos"]} for line in lines]
    with gzip.open(folder / "text.jsonl.gz", "wt") as texts:
        texts.writelines(json.dumps(passage) + "\n" for passage in passages)
    return folder


@pytest.fixture
def sets(tmp_path, rows_file):
    """A retrieval set whose documents are the rows' positives."""
    folder = tmp_path / "sets" / "rows"
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    corpus = [{"_id": str(i), "title": "", "text": row["pos"]} for i, row in enumerate(rows)]
    queries = [{"_id": f"q{i}", "text": row["query"]} for i, row in enumerate(rows)]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    qrels = [f"q{i}\t{i}\t1\n" for i in range(len(rows))]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(qrels))
    return folder.parent


def test_rows_that_a_round_does_not_name_are_taken_all(tmp_path):
    recipe = runpy.run_path(str(SCRIPT))
    config = recipe["CONFIGS"] / "smollm2-135m-cda5.yaml"
    (tmp_path / "mined").mkdir()
    for name in ("sentences.jsonl.gz", "mined/others.jsonl.gz"):
        (tmp_path / name).touch()
    assert recipe["shares"](config, tmp_path) == [f"{tmp_path}/mined"]
    (tmp_path / "mined" / "nq_oracle.jsonl.gz").touch()
    named = ["mined/nq_oracle.jsonl.gz:weight=2549", "sentences.jsonl.gz:weight=14000"]
    assert recipe["shares"](config, tmp_path) == [f"{tmp_path}/{source}" for source in named]


@pytest.mark.long
def test_the_recipe_runs_from_rows_to_figures_and_not_twice(tmp_path, data, sets, real_base):
    options = [data, "--out", tmp_path / "out", "--small"]
    first = recipe(*options, "--evaluate", sets, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    out = tmp_path / "out"
    assert AutoRegConfig.load(out / "model").stage == "cda"
    assert "nDCG@10" in (out / "results.md").read_text()
    model = AutoRegModel.from_pretrained(out / "model")
    assert model.neck.fitted
    for stage in ("cda2", "cda5"):
        settings = (out / stage / "settings.yaml").read_text()
        assert f"{out}/mined/nq_oracle.jsonl.gz:weight=" in settings
        assert "rows.jsonl" not in settings
    assert f"model: {out}/mean/model" in settings
    assert f"{out}/sentences.jsonl.gz:weight=" in settings
    trained = {path: path.stat().st_mtime_ns for path in out.glob("*/settings.yaml")}
    again = recipe(*options, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert AutoRegModel.from_pretrained(out / "model").fingerprint() == model.fingerprint()

    # InfoNCE in the same folder, from the same compression on.
    done = recipe(data, "--out", out, "--small", "--alignment", "contrastive", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert AutoRegConfig.load(out / "model").stage == "contrastive"
    before, after = (
        AutoRegModel.from_pretrained(out / stage / "model") for stage in ("contrastive", "bridge")
    )
    assert after.fingerprint() == before.fingerprint()
    assert not torch.equal(after.neck.bridge_matrix, before.neck.bridge_matrix)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


def test_a_stage_that_fails_ends_the_recipe(tmp_path):
    (tmp_path / "empty").mkdir()
    failed = recipe(tmp_path / "empty", "--out", tmp_path / "out", cwd=tmp_path)
    assert failed.returncode == 1
    assert "error:" in failed.stderr
    assert not (tmp_path / "out" / "ic").exists()


def one_line_error(failed):
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    line = failed.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_what_later_stages_need_is_looked_for_first(tmp_path, data):
    (tmp_path / "none").mkdir()
    assert "there is no folder" in one_line_error(recipe(tmp_path / "nowhere", cwd=tmp_path))
    for options, says in (
        (["--evaluate", tmp_path / "nowhere"], "nowhere does not exist"),
        (["--evaluate", tmp_path / "none"], "has no evaluation set"),
        (["--teacher", "/no/such"], "sentence-transformers cannot load /no/such"),
    ):
        failed = recipe(data, *options, "--out", tmp_path / "out", cwd=tmp_path)
        assert says in one_line_error(failed)
        assert not (tmp_path / "out").exists()


def test_errors_of_the_recipe_itself_are_one_line(tmp_path, data):
    out = tmp_path / "out"
    for name in ("ic", "cda", "cda2", "cda3"):  # as if ended, with models that cannot be read
        (out / name / "model").mkdir(parents=True)
    one_line_error(recipe(data, "--out", out, cwd=tmp_path))
