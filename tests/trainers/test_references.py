import dataclasses
import json

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from autoreg_trainers import references
from autoreg_trainers.blocks import BlocksError
from autoreg_trainers.objectives import Alignment, AlignmentSettings
from autoreg_trainers.references import with_references
from tests.forkserver import run_ranks
from tests.trainers.gathering import SHARES, rows_of, score
from tests.trainers.plain import Plain, assert_same_gradients, gradients, prepared, triplets


@pytest.fixture
def objective(tiny_folder):
    return Alignment(prepared(tiny_folder), 300, AlignmentSettings())


@pytest.fixture
def rows(objective, monkeypatch):
    """Triplets in three files of scores."""
    monkeypatch.setattr(references, "BLOCK", 2)
    plain = triplets(objective.model, negatives=(2, 0, 1, 3, 1))
    columns = ("query", "positive", "negatives", "symmetric", "group")
    return Dataset.from_list([{name: row[name] for name in columns} for row in plain])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_row_gets_the_models_own_scores(objective, rows, tiny_folder, tmp_path):
    result = with_references(objective, rows, tmp_path / "scores")
    plain = Plain(objective.model, tiny_folder)
    assert result["query"][:] == rows["query"][:]
    for row in result:
        prefix = plain.bridge(plain.query(row))
        score = plain.log_likelihood(prefix, row["positive"]).item()
        assert row["reference_positive"] == pytest.approx(score, rel=1e-5)
        assert len(row["reference_negatives"]) == len(row["negatives"])
        for ids, found in zip(row["negatives"], row["reference_negatives"], strict=True):
            assert found == pytest.approx(plain.log_likelihood(prefix, ids).item(), rel=1e-5)
    sums = objective(list(result)).sums
    assert sums["s2"] == (pytest.approx(-3.5, abs=1e-4), 7)


def test_scores_are_kept_in_float32_and_read_again(objective, rows, tmp_path):
    folder = tmp_path / "scores"
    first = with_references(objective, rows, folder)
    assert len(list(folder.glob("*.safetensors"))) == 3
    kept = contents(folder)
    scores = first["reference_positive"][:]
    assert torch.tensor(scores).double().tolist() == scores
    again = with_references(objective, rows, folder)
    assert again["reference_positive"][:] == scores
    assert again["reference_negatives"][:] == first["reference_negatives"][:]
    assert contents(folder) == kept


@pytest.mark.parametrize("missing", [0, 2, 4])
def test_work_goes_on_where_it_was_cut_off(objective, rows, tmp_path, missing, monkeypatch):
    whole = with_references(objective, rows, tmp_path / "whole")
    folder = tmp_path / "cut"
    with_references(objective, rows, folder)
    for path in folder.glob("*.safetensors"):
        if int(path.stem) >= missing:
            path.unlink()
    scored = []
    reference = Alignment.reference
    monkeypatch.setattr(
        Alignment, "reference", lambda self, part: scored.extend(part) or reference(self, part)
    )
    again = with_references(objective, rows, folder)
    assert len(scored) == len(rows) - missing
    for name in ("reference_positive", "reference_negatives"):
        assert again[name][:] == whole[name][:]
    assert contents(folder) == contents(tmp_path / "whole")


def test_processes_share_the_work(tiny_folder, tmp_path):
    run_ranks(score, tiny_folder, tmp_path, count=len(SHARES))
    found = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(len(SHARES))]
    assert [part["scored"].tolist() for part in found] == [[2, 1], [2]]  # of blocks of 2, 2, 1
    assert torch.equal(found[0]["scores"], found[1]["scores"])
    objective = Alignment(prepared(tiny_folder), 200, AlignmentSettings())
    expected = objective.reference(rows_of(objective.model))["positive"].double()
    torch.testing.assert_close(found[0]["scores"], expected)


def test_scores_of_other_rows_are_refused(objective, rows, tmp_path):
    folder = tmp_path / "scores"
    with_references(objective, rows, folder)
    kept = contents(folder)
    changed = rows[1] | {"positive": [*rows[1]["positive"][:-1], 9]}
    others = {
        "order": rows.select([1, 0, 2, 3, 4]),
        "count": rows.select(range(4)),
        "text": Dataset.from_list([rows[0], changed, *rows.select(range(2, 5))]),
    }
    for other in others.values():
        with pytest.raises(BlocksError, match="other rows") as caught:
            with_references(objective, other, folder)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)
    assert contents(folder) == kept


def test_scores_of_another_model_are_refused(objective, rows, tmp_path, tiny_folders):
    folder = tmp_path / "scores"
    with_references(objective, rows, folder)

    def refused(model, match, settings=objective.settings):
        with pytest.raises(BlocksError, match=match):
            with_references(Alignment(model, 300, settings), rows, folder)

    model = objective.model
    refused(prepared(tiny_folders["qwen"]), "other model")
    for name, value in model.named_parameters():
        if value.requires_grad:
            kept = value.detach().clone()
            with torch.no_grad():
                value.view(-1)[0] += 1
                refused(model, "other neck" if "bridge" in name else "other model")
                value.copy_(kept)
    with_references(objective, rows, folder)
    in_batch = dataclasses.replace(objective.settings, in_batch_negatives=1)
    refused(model, "other prefix", in_batch)


def test_scores_under_other_instructions_are_refused(objective, rows, tmp_path, tiny_folder):
    folder = tmp_path / "scores"
    with_references(objective, rows, folder)
    for name in ("query_instruction", "document_instruction"):
        other = prepared(tiny_folder, **{name: "Other:"})
        with pytest.raises(BlocksError, match=name):
            with_references(Alignment(other, 300, objective.settings), rows, folder)


def test_damaged_scores_are_refused_in_one_line(objective, rows, tmp_path):
    folder = tmp_path / "scores"
    with_references(objective, rows, folder)
    block = folder / "00000002.safetensors"
    manifest = folder / references.MANIFEST_FILE
    kept = contents(folder)
    block.write_bytes(kept[block.name][:-4])
    with pytest.raises(BlocksError, match=r"00000002\.safetensors is damaged") as caught:
        with_references(objective, rows, folder)
    assert "\n" not in str(caught.value)
    block.write_bytes(kept[block.name])
    for content in ("{", "[]", '"text"'):
        manifest.write_text(content)
        with pytest.raises(BlocksError, match="damaged"):
            with_references(objective, rows, folder)
    manifest.write_text(json.dumps({}))
    with pytest.raises(BlocksError, match="other"):
        with_references(objective, rows, folder)


def test_with_in_batch_negatives_the_querys_prefix_is_kept(objective, rows, tiny_folder, tmp_path):
    settings = AlignmentSettings(in_batch_negatives=2, beta=0.02, tau=0.3)
    objective = Alignment(objective.model, 300, settings)
    batch = list(with_references(objective, rows, tmp_path / "scores"))
    plain = Plain(objective.model, tiny_folder)
    for row in batch:
        prefix = plain.bridge(plain.query(row)).flatten()
        kept = torch.tensor(row["reference_prefix"], dtype=torch.float64)
        torch.testing.assert_close(kept, prefix, rtol=1e-3, atol=1e-3)
    expected = plain.alignment(
        batch, form="log_ratio", beta=0.02, tau=0.3, reduction="sum", in_batch=2
    )
    outcome, found = gradients(objective, batch)
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(found, plain.gradients(expected))
    assert outcome.sums["reward_margin"][0] == pytest.approx(0, abs=0.5)


def test_rows_without_any_negatives_have_scores_too(objective, tmp_path):
    plain = triplets(objective.model, negatives=(0, 0))
    columns = ("query", "positive", "negatives", "symmetric", "group")
    rows = Dataset.from_list([{name: row[name] for name in columns} for row in plain])
    result = with_references(objective, rows, tmp_path / "scores")
    assert result["reference_negatives"][:] == [[], []]
    assert objective(list(result)).loss.item() == 0
