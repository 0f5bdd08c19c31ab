"""The bridge's first fit: an oracle in float64, and what it does for the real model."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset

from autoreg_trainers.bridge import RIDGE, fit_bridge
from autoreg_trainers.data import DataError, held_back
from autoreg_trainers.objectives import Compression
from tests.trainers.plain import loaded
from tests.trainers.running import apart, flags, short_rows

FAMILIES = ["llama", "qwen", "mistral", "gemma"]


@pytest.fixture(scope="module")
def texts():
    return [row["pos"] for row in islice(short_rows(80), 144)]


def compression_rows(model, texts):
    suffix = model.encoder.suffix_ids(model.config.document_instruction)
    ids = model.backbone.tokenize(texts)
    return [{"context": row, "suffix": suffix, "target": row} for row in ids]


def fit(model, rows):
    contexts = [Compression(model, 2048).wrapped(row) for row in rows]
    fit_bridge(model, contexts, [row["target"] for row in rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fit_is_the_ridge_regression_written_plainly(tiny_folders, family, texts):
    model = loaded(tiny_folders[family])
    latents = model.compress(texts).double().numpy()
    rows = compression_rows(model, texts)
    fit(model, rows)

    embeddings = model.backbone.language_model.get_input_embeddings()
    documents = [set(row["target"]) for row in rows]
    words = []
    for row in rows:
        ids = row["target"]
        counts = np.array([sum(token in found for found in documents) for token in ids])
        weights = np.log((1 + len(rows)) / (1 + counts)) ** 2
        vectors = embeddings(torch.tensor(ids)).double().detach().numpy()
        words.append(weights @ vectors / weights.sum())
    words = np.array(words)
    start, center = words.mean(axis=0), latents.mean(axis=0)
    apart_ = latents - center
    inputs = apart_.reshape(-1, apart_.shape[-1])
    outputs = np.repeat(words - start, latents.shape[1], axis=0)
    squares = inputs.T @ inputs
    squares += RIDGE * np.diag(squares).mean() * np.eye(len(squares))
    matrix = np.linalg.solve(squares, inputs.T @ outputs)
    # As the decoder reads them: Gemma's embeddings are not their weight.
    tokens = embeddings(torch.arange(len(embeddings.weight))).double().detach()
    length = tokens.norm(dim=-1).mean().item()
    matrix *= length / np.linalg.norm(apart_ @ matrix, axis=-1).mean()

    neck = model.neck
    np.testing.assert_allclose(neck.bridge_matrix.detach().numpy(), matrix, rtol=0, atol=1e-3)
    for found, expected in ((neck.bridge_start, start), (neck.bridge_center, center)):
        expected = np.broadcast_to(expected, found.shape)
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_fitted_bridge_tells_the_real_decoder_of_texts_it_was_not_fitted_to(real_base, texts):
    model = real_base
    objective = Compression(model, 2048)
    objective.compare = True
    rows = compression_rows(model, texts)

    def content():
        with torch.no_grad():
            total, count = objective(rows[-24:]).sums["content"]
        return total / count

    before = content()
    fit(model, rows[:-24])
    assert before < 0.05
    assert content() > 0.1


def test_no_row_that_is_held_back_takes_part_in_the_fit(tiny_folder, place, texts):
    same = {"held_back": 20, "batch_size": 4, "max_steps": 1, "learning_rate": 1e-30}
    same |= {"compile": "no", "neck_learning_rate": 1e-30, "tasks": "reconstruct=1"}
    model = loaded(tiny_folder)
    named = Dataset.from_list(
        [{**row, "group": f"texts/{i}"} for i, row in enumerate(compression_rows(model, texts))]
    )
    held = set(held_back(named, 20, 0)[1]["group"])
    matrices = []
    for name, ending in (("as_it_is", ""), ("changed", " of other words")):
        rows = [
            {"text": text + ending * (f"texts/{i}" in held), "group": i, "source": "texts"}
            for i, text in enumerate(texts)
        ]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = place / f"{name}.jsonl"
        assert apart(
            "ic", *flags(model=tiny_folder, sources=source, out=name, **same), cwd=place
        ) == [0]
        matrices.append(loaded(place / name / "model").neck.bridge_matrix)
    assert len(held) == 20
    assert torch.equal(*matrices)


@pytest.mark.parametrize("count", [1, 30], ids=["one", "alike"])
@pytest.mark.parametrize("part", ["context", "target"])
def test_rows_that_say_the_same_are_refused(tiny_folder, texts, count, part):
    model = loaded(tiny_folder)
    rows = compression_rows(model, texts[:count])
    before = model.neck.bridge_matrix.clone()
    with pytest.raises(DataError, match="bridge_rows"):
        fit(model, [{**row, part: rows[0][part]} for row in rows])
    assert torch.equal(model.neck.bridge_matrix, before)


def test_only_a_new_models_bridge_is_fitted(tiny_folder, place, texts):
    file = place / "texts.jsonl"
    file.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts if '"' not in text))
    same = {"sources": file, "held_back": 0, "batch_size": 4, "max_steps": 1, "learning_rate": 1e-9}
    same |= {"compile": "no", "neck_learning_rate": 1e-9, "tasks": "reconstruct=1"}
    assert apart("ic", *flags(model=tiny_folder, out="first", **same), cwd=place) == [0]
    assert apart("ic", *flags(model="first/model", out="second", **same), cwd=place) == [0]
    assert apart("ic", *flags(model=tiny_folder, out="none", bridge_rows=0, **same), cwd=place) == [
        0
    ]
    first, second, none = (
        loaded(place / name / "model").neck for name in ("first", "second", "none")
    )
    assert first.fitted
    assert not none.fitted
    torch.testing.assert_close(second.bridge_matrix, first.bridge_matrix, rtol=0, atol=1e-6)
    torch.testing.assert_close(second.bridge_center, first.bridge_center, rtol=0, atol=0)
