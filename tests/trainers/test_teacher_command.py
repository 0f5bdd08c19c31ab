"""The commands with a teacher, as a user runs them."""

import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from autoreg_rag.model import AutoRegModel
from tests.trainers.running import flags, history, weights

TOLD = ("loss", "grad_norm", "divergence", "info_nce", "s2")


@pytest.fixture
def options(tiny_folder, teacher_folder, rows_file):
    """Of runs whose length does not change their steps."""
    same = {"max_rows": 30, "schedule": "constant", "warmup": 0, "save_steps": 1}
    return flags(model=tiny_folder, sources=rows_file, teacher=teacher_folder, **same)


def run(here, name, *options):
    """Run a command; return the figures on held-back rows."""
    status, output, errors = here(name, *options)
    assert status == 0, errors
    return json.loads(output)


def written(folder):
    """When each file of the teacher's vectors was last written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "teacher").iterdir()}


@pytest.mark.parametrize("name", ["cda", "contrastive"])
def test_a_run_that_goes_on_is_as_one_that_was_not_stopped(here, options, tmp_path, name):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    figures = run(here, name, *options, "--max-steps", 3, "--out", whole)
    assert figures["eval_divergence"] > 0
    run(here, name, *options, "--max-steps", 2, "--out", parts)
    assert sorted(history(parts)) == [1, 2]
    before = written(parts)
    assert len(before) == 2  # and what they belong to
    run(here, name, *options, "--max-steps", 3, "--out", parts, "--resume", "yes")
    assert written(parts) == before
    found, expected = history(parts), history(whole)
    assert sorted(found) == sorted(expected) == [1, 2, 3]
    for step, entry in expected.items():
        assert entry["divergence"] > 0
        for figure in set(TOLD) & entry.keys():
            assert found[step][figure] == entry[figure], (step, figure)
    own = weights(parts)
    assert all(torch.equal(own[key], value) for key, value in weights(whole).items())


def cosines(rows, encode_queries, encode_documents):
    """Of each row's query with all rows' positives and negatives, float64."""
    texts = [row["pos"] for row in rows] + [text for row in rows for text in row["neg"]]
    queries = encode_queries([row["query"] for row in rows]).astype(np.float64)
    documents = encode_documents(texts).astype(np.float64)
    lengths = [np.linalg.norm(vectors, axis=1) for vectors in (queries, documents)]
    return queries @ documents.T / np.outer(*lengths)


@pytest.mark.parametrize("name", ["cda", "contrastive"])
def test_the_divergence_is_that_from_the_mean_of_several_teachers_cosines(
    here, tiny_folder, teacher_folder, other_folder, rows_file, tmp_path, name
):
    """Of all rows at once, by the package's own vectors and those of the model that is left."""
    from sentence_transformers import SentenceTransformer

    lines = rows_file.read_text().splitlines(keepends=True)[:16]
    rows = [json.loads(line) for line in lines]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    # A step that changes nothing, so that the model is what it was before it.
    still = {"max_steps": 1, "batch_size": 16, "held_back": 0, "learning_rate": 1e-12}
    options = flags(model=tiny_folder, sources=tmp_path / "rows.jsonl", **still)
    both = [teacher_folder, other_folder]
    run(here, name, *options, "--teacher", *both, "--out", tmp_path / "flags")
    (tmp_path / "run.yaml").write_text("teacher:\n" + "".join(f"- {each}\n" for each in both))
    config = ["--config", tmp_path / "run.yaml"]
    run(here, name, *options, *config, "--out", tmp_path / "file")

    packages = [SentenceTransformer(str(each), device="cpu") for each in both]
    taught = [cosines(rows, each.encode_query, each.encode_document) for each in packages]
    student = AutoRegModel.from_pretrained(tmp_path / "flags" / "model", device="cpu")
    own = cosines(rows, student.encode_queries, student.encode_documents)
    found = log_softmax(own / 0.05, axis=1)

    def divergence(similarities):
        wanted = log_softmax(similarities / 0.05, axis=1)
        return (np.exp(wanted) * (wanted - found)).sum(axis=1).mean()

    expected = divergence(sum(taught) / 2)
    for out in ("flags", "file"):
        (entry,) = history(tmp_path / out).values()
        assert entry["divergence"] == pytest.approx(expected, rel=2e-3)
    for alone in taught:
        assert divergence(alone) != pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ["cda", "contrastive"])
def test_the_divergence_counts_with_its_weight(here, options, tmp_path, name):
    losses = {}
    for weight in (0, 3):
        out = tmp_path / str(weight)
        run(here, name, *options, "--max-steps", 1, "--teacher-weight", weight, "--out", out)
        (losses[weight],) = history(out).values()
    first, second = losses[0], losses[3]
    assert second["divergence"] == first["divergence"]
    assert second["loss"] == pytest.approx(first["loss"] + 3 * first["divergence"], rel=1e-5)


def test_rows_without_a_negative_are_aligned_to_a_teacher(here, options, tmp_path):
    run(here, "cda", *options, "--negatives", 0, "--max-steps", 1, "--out", tmp_path / "run")
    (entry,) = history(tmp_path / "run").values()
    assert entry["grad_norm"] > 0
    assert entry["loss"] == pytest.approx(entry["divergence"], rel=1e-5)


def test_reference_scores_are_those_without_a_teacher(here, options, tmp_path):
    """So that runs with and without one can share them."""
    kept = ["--references", tmp_path / "scores"]
    plain = [*options, "--max-steps", 1, "--in-batch-negatives", 1, *kept]
    run(here, "cda", *plain, "--out", tmp_path / "taught")
    manifest = (tmp_path / "scores" / "references.json").read_bytes()
    place = plain.index("--teacher")
    without = plain[:place] + plain[place + 2 :]
    run(here, "cda", *without, "--out", tmp_path / "alone")
    assert (tmp_path / "scores" / "references.json").read_bytes() == manifest
    (entry,) = history(tmp_path / "alone").values()
    assert "divergence" not in entry
