import pytest
import torch

from autoreg_rag import likelihood
from autoreg_rag.model import AutoRegModel
from autoreg_trainers import divergence
from autoreg_trainers.objectives import Compression
from tests.trainers.plain import (
    TEXTS,
    Plain,
    assert_same_gradients,
    examples,
    finite_differences,
    gradients,
    prepared,
)

CASES = [
    (family, tuning, distillation)
    for family in ("llama", "gemma")
    for tuning in ("lora", "full")
    for distillation in (0.0, 0.3, 1.0)
]
CASES += [(family, tuning, 0.3) for family in ("qwen", "mistral") for tuning in ("lora", "full")]


def assert_plain(objective, folder, rows):
    """Compare loss and gradients with those of the plain graph, kept whole."""
    plain = Plain(objective.model, folder)
    expected = plain.compression(rows, objective.distillation)
    outcome, found = gradients(objective, rows)
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(found, plain.gradients(expected))
    return plain


@pytest.mark.parametrize(("family", "tuning", "distillation"), CASES)
def test_loss_and_gradients_are_those_of_the_plain_graph(
    tiny_folders, family, tuning, distillation
):
    model = prepared(tiny_folders[family], tuning)
    objective = Compression(model, 256, distillation=distillation)
    assert_plain(objective, tiny_folders[family], examples(model))


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_neither_budget_nor_chunks_nor_passes_change_loss_or_gradients(
    tiny_folder, monkeypatch, budget, one_pass
):
    """Budget 1 works off, and in the backward pass recomputes, text by text."""
    monkeypatch.setattr(likelihood, "CHUNK", 7)
    monkeypatch.setattr(divergence, "CHUNK", 5)
    model = prepared(tiny_folder)
    objective = Compression(model, budget, distillation=0.5)
    objective.one_pass = one_pass
    assert_plain(objective, tiny_folder, examples(model))


def test_a_target_is_scored_up_to_its_cut_and_then_has_no_end(tiny_folder):
    model = prepared(tiny_folder)
    objective = Compression(model, 256)
    rows = examples(model)
    objective.max_target = cut = 4
    outcome, _ = gradients(objective, rows)
    plain = Plain(model, tiny_folder)
    expected, count = 0.0, 0
    for row in rows:
        ids = [*row["target"], model.backbone.tokenizer.eos_token_id][:cut]
        prefix = plain.bridge(plain.encode(row["context"], row["suffix"]))
        table = plain.distributions(prefix, row["target"])
        expected -= sum(table[i, token].item() for i, token in enumerate(ids))
        count += len(ids)
    assert outcome.units == count < sum(len(row["target"]) + 1 for row in rows)
    assert outcome.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_gradients_are_the_slopes_of_the_plain_loss(tiny_folder, tuning):
    """Finite differences: no automatic differentiation on the oracle's side."""
    model = prepared(tiny_folder, tuning)
    rows = examples(model, 3)
    _, found = gradients(Compression(model, 64), rows)
    plain = Plain(model, tiny_folder)
    largest = max(float(value.abs().max()) for value in found.values())
    checked = 0
    for name, place, slope in finite_differences(plain, lambda: plain.compression(rows)):
        gradient = found[name].flatten()[place].item()
        assert gradient == pytest.approx(slope, rel=2e-3, abs=1e-6 * largest), name
        checked += gradient != 0
    assert checked > 10


def test_the_loss_is_a_sum_over_rows_in_any_order_and_company(tiny_folder):
    model = prepared(tiny_folder)
    objective = Compression(model, 2048)
    rows = examples(model, 8)
    outcome, together = gradients(objective, rows)
    backwards, reverse = gradients(objective, rows[::-1])
    assert backwards.loss.item() == pytest.approx(outcome.loss.item(), rel=1e-5)
    assert_same_gradients(reverse, {name: value.double() for name, value in together.items()})
    alone = [gradients(objective, [row]) for row in rows]
    assert sum(part.loss.item() for part, _ in alone) == pytest.approx(
        outcome.loss.item(), rel=1e-5
    )
    summed = {name: sum(part[name].double() for _, part in alone) for name in together}
    assert_same_gradients(together, summed)


def test_parts_hold_every_row_once_within_the_budget(tiny_folder):
    model = prepared(tiny_folder)
    objective = Compression(model, 2048)
    rows = examples(model, 12)
    parts = list(objective.parts(rows, 150))
    assert len(parts) > 2
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, rows))
    for part in parts:
        held = sum(objective.encoder_tokens(row) for row in part)
        assert len(part) == 1 or held <= 150
    whole, _ = gradients(objective, rows)
    assert sum(objective(part).loss.item() for part in parts) == pytest.approx(
        whole.loss.item(), rel=1e-5
    )
    assert sum(objective(part).units for part in parts) == whole.units


def test_every_token_counts_also_the_end_that_is_the_padding_too(tiny_folder):
    """The tokenizer pads with its end of text; targets spell it, and end with it."""
    model = prepared(tiny_folder)
    eos = model.backbone.tokenizer.eos_token_id
    assert model.backbone.tokenizer.pad_token_id == eos
    rows = examples(model, 3)
    rows[0]["target"] = [5, eos, eos, 9, eos]
    rows[1]["context"] = [eos, 7, eos]
    rows[2]["target"] = [0, 0, 300]  # id 0 fills up shorter rows
    objective = Compression(model, 2048)
    assert objective(rows).units == sum(len(row["target"]) + 1 for row in rows)
    assert [objective.units(row) for row in rows] == [len(row["target"]) + 1 for row in rows]
    assert_plain(objective, tiny_folder, rows)


def test_the_figures_are_likelihoods_with_and_without_context(tiny_folder):
    model = prepared(tiny_folder)
    objective = Compression(model, 128, distillation=0.5)
    rows = examples(model)
    assert "no_context" not in objective(rows).sums
    objective.compare = True
    sums = objective(rows).sums
    plain = Plain(model, tiny_folder)
    tokens = sum(len(row["target"]) + 1 for row in rows)
    nll = plain.compression(rows).item()
    nothing = -sum(plain.no_context(row["target"]).item() for row in rows)
    for name, expected in (("nll", nll), ("no_context", nothing), ("gain", nothing - nll)):
        assert sums[name] == (pytest.approx(expected, rel=1e-4), tokens)


def test_texts_over_the_limit_are_cut_the_instruction_never(tiny_folder):
    model = prepared(tiny_folder, max_length=10)
    objective = Compression(model, 2048)
    long = list(range(2, 60))
    instruction = model.encoder.suffix_ids("An instruction " * 12)
    row = {"context": long, "suffix": instruction, "target": long[::-1]}
    short = {"context": long[:10], "suffix": instruction, "target": long[::-1][:10]}
    outcome = objective([row])
    assert outcome.units == objective.units(row) == 11
    assert outcome.loss.item() == pytest.approx(objective([short]).loss.item(), rel=1e-6)
    assert_plain(objective, tiny_folder, [short])


def test_a_context_leaves_room_for_all_that_stands_around_it(tiny_folder):
    model = prepared(tiny_folder, template="Read this text with care: {text}\n{instruction}")
    objective = Compression(model, 2048)
    window = model.backbone.window
    row = {"context": [7] * 400, "suffix": [8] * 100, "target": [9]}
    assert objective.encoder_tokens(row) == window
    assert objective([row]).loss.isfinite()


def test_training_steps_leave_the_frozen_weights_alone_bit_for_bit(tiny_folder):
    for tuning in ("lora", "full"):
        model = prepared(tiny_folder, tuning)
        objective = Compression(model, 256).train()
        rows = examples(model)
        base = AutoRegModel.from_pretrained(tiny_folder, dtype="float32", device="cpu")
        before = model.compress(TEXTS)
        values = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(values, lr=1e-2)
        losses = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = objective(rows).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        latents = model.compress(TEXTS)
        assert not torch.allclose(latents, before, rtol=1e-2)
        base.neck.load_state_dict(model.neck.state_dict())
        assert torch.equal(
            model.log_likelihood(latents, TEXTS), base.log_likelihood(latents, TEXTS)
        )
        assert model.decode(latents, max_new_tokens=5) == base.decode(latents, max_new_tokens=5)
        assert [value for value in model.parameters() if value.requires_grad] == values


def test_only_the_adapters_dropout_takes_part_in_training(tiny_folder):
    model = prepared(tiny_folder, dropout=0.5)
    for layer in model.backbone.body.layers:
        layer.self_attn.attention_dropout = 0.5
    objective = Compression(model, 2048)
    rows = examples(model)
    contexts = objective.documents([row["context"] for row in rows])
    targets = objective.targets([row["target"] for row in rows])
    for training in (True, False, True):
        objective.train(training)
        assert torch.equal(objective.no_context(targets), objective.no_context(targets))
        assert torch.equal(objective.encode(contexts), objective.encode(contexts)) != training


def test_evaluation_keeps_no_graph(tiny_folder):
    model = prepared(tiny_folder)
    objective = Compression(model, 64, distillation=0.5)
    rows = examples(model)
    with torch.no_grad():
        outcome = objective(rows)
    assert not outcome.loss.requires_grad
    assert outcome.loss.item() == pytest.approx(objective(rows).loss.item(), rel=1e-6)
