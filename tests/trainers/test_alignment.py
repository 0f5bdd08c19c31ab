import dataclasses

import pytest
import torch

from autoreg_rag import likelihood
from autoreg_rag.model import AutoRegModel
from autoreg_trainers import divergence
from autoreg_trainers.losses import ALIGNMENT_FORMS
from autoreg_trainers.objectives import Alignment, AlignmentSettings, Contrastive
from tests.trainers.plain import (
    TEXTS,
    Plain,
    assert_same_gradients,
    finite_differences,
    further,
    gradients,
    prepared,
    triplets,
    with_own_references,
)
from tests.trainers.teaching import taught, vectors_of

WIDE = {"beta": 0.02, "tau": 0.3}
"""Settings that leave gradients everywhere, where the paper's saturate on some rows."""


def plain_loss(plain, rows, settings, vectors=()):
    loss = plain.alignment(
        rows,
        form=settings.form,
        beta=settings.beta,
        tau=settings.tau,
        reduction=settings.reduction,
        in_batch=settings.in_batch_negatives,
        contrast=(settings.contrastive_weight, settings.contrastive_tau),
        compress=settings.compression_weight,
    )
    if vectors:
        divergence = plain.divergence(rows, vectors, settings.contrastive_tau)
        loss = loss + settings.teacher_weight * divergence
        loss = loss + settings.teacher_cosine_weight * plain.cosine_error(rows, vectors)
    return loss


def assert_plain(objective, folder, rows, vectors=()):
    """Compare loss and gradients with those of the plain graph, kept whole."""
    plain = Plain(objective.model, folder)
    expected = plain_loss(plain, rows, objective.settings, vectors)
    outcome, found = gradients(objective, rows)
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    wanted = plain.gradients(expected)
    assert any(value.any() for value in wanted.values())
    assert_same_gradients(found, wanted)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("form", ALIGNMENT_FORMS)
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_loss_and_gradients_are_those_of_the_plain_graph(tiny_folder, tuning, form, reduction):
    model = prepared(tiny_folder, tuning)
    objective = Alignment(model, 512, AlignmentSettings(form=form, reduction=reduction, **WIDE))
    assert_plain(objective, tiny_folder, triplets(model))


@pytest.mark.parametrize("form", ["log_ratio", "js"])
@pytest.mark.parametrize("family", ["qwen", "mistral", "gemma"])
def test_loss_and_gradients_in_the_other_families(tiny_folders, family, form):
    model = prepared(tiny_folders[family])
    objective = Alignment(model, 512, AlignmentSettings(form=form, **WIDE))
    assert_plain(objective, tiny_folders[family], triplets(model))


def test_the_papers_own_settings(tiny_folder):
    """Summed likelihoods, beta = tau = 0.1, one hard negative, each gain within some nats."""
    model = prepared(tiny_folder)
    objective = Alignment(model, 512, AlignmentSettings())
    assert (objective.settings.beta, objective.settings.tau) == (0.1, 0.1)
    rows = with_own_references(objective, triplets(model, negatives=(1, 1, 1, 1)))
    assert_plain(objective, tiny_folder, rows)


@pytest.mark.parametrize("form", ["log_ratio", "kl"])
@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("budget", [1, 150, 10_000])
def test_neither_budget_nor_chunks_nor_passes_change_loss_or_gradients(
    tiny_folder, monkeypatch, budget, one_pass, form
):
    monkeypatch.setattr(likelihood, "CHUNK", 7)
    monkeypatch.setattr(divergence, "CHUNK", 5)
    model = prepared(tiny_folder)
    objective = Alignment(model, budget, AlignmentSettings(form=form, reduction="mean", beta=0.5))
    objective.one_pass = one_pass
    assert_plain(objective, tiny_folder, triplets(model, negatives=(2, 0, 1)))


def test_gradients_are_the_slopes_of_the_plain_loss(tiny_folder):
    model = prepared(tiny_folder)
    settings = AlignmentSettings(**WIDE)
    rows = triplets(model, negatives=(1, 2))
    _, found = gradients(Alignment(model, 128, settings), rows)
    plain = Plain(model, tiny_folder)
    largest = max(float(value.abs().max()) for value in found.values())
    checked = 0
    for name, place, slope in finite_differences(plain, lambda: plain_loss(plain, rows, settings)):
        gradient = found[name].flatten()[place].item()
        assert gradient == pytest.approx(slope, rel=5e-3, abs=1e-5 * largest), name
        checked += gradient != 0
    assert checked > 10


@pytest.mark.parametrize("form", ["log_ratio", "js"])
def test_the_loss_is_a_sum_over_rows_in_any_order_and_company(tiny_folder, form):
    model = prepared(tiny_folder)
    objective = Alignment(model, 512, AlignmentSettings(form=form, **WIDE))
    assert objective.separable
    rows = triplets(model)
    outcome, together = gradients(objective, rows)
    backwards, reverse = gradients(objective, rows[::-1])
    assert backwards.loss.item() == pytest.approx(outcome.loss.item(), rel=1e-5)
    expected = {name: value.double() for name, value in together.items()}
    assert_same_gradients(reverse, expected)
    alone = [gradients(objective, [row]) for row in rows]
    total = sum(part.loss.item() for part, _ in alone)
    assert total == pytest.approx(outcome.loss.item(), rel=1e-5)
    assert_same_gradients(together, {n: sum(p[n].double() for _, p in alone) for n in together})


def test_rows_without_negatives_cost_nothing(tiny_folder):
    model = prepared(tiny_folder)
    objective = Alignment(model, 512, AlignmentSettings())
    outcome, found = gradients(objective, triplets(model, negatives=(0, 0)))
    assert outcome.loss.item() == 0
    assert not any(value.any() for value in found.values())
    assert outcome.sums["s2"] == (0.0, 0)
    assert outcome.sums["s1"][1] == 2


def test_beside_its_own_reference_every_negative_starts_at_one_half(tiny_folder):
    """The reference's sign as printed: each example starts at the same slope."""
    model = prepared(tiny_folder)
    for reduction in ("sum", "mean"):
        objective = Alignment(model, 512, AlignmentSettings(reduction=reduction))
        rows = with_own_references(objective, triplets(model))
        sums = objective(rows).sums
        assert sums["s2"] == (pytest.approx(-0.5 * 6, abs=1e-4), 6)
        assert sums["reward_margin"][0] == pytest.approx(0, abs=1e-2)
        assert sums["s2_saturated"] == (0.0, 6)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_step_raises_the_positive_over_the_negative(tiny_folder, reduction):
    model = prepared(tiny_folder)
    objective = Alignment(model, 512, AlignmentSettings(reduction=reduction))
    rows = with_own_references(objective, triplets(model, negatives=(1, 1, 1)))
    values = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(values, lr=1e-3)
    before = objective(rows)
    for _ in range(3):
        optimizer.zero_grad()
        objective(rows).loss.backward()
        optimizer.step()
    after = objective(rows)
    assert after.loss < before.loss
    assert after.sums["margin"][0] > before.sums["margin"][0]
    assert after.sums["reward_margin"][0] > 0.1 > abs(before.sums["reward_margin"][0])


def test_the_reference_is_the_models_own_likelihood(tiny_folder):
    model = prepared(tiny_folder)
    objective = Alignment(model, 100, AlignmentSettings(in_batch_negatives=1))
    rows = triplets(model)
    scores = objective.reference(rows)
    assert scores["positive"].dtype == scores["negatives"].dtype == torch.float32
    assert scores["counts"].tolist() == [2, 0, 1, 3]
    plain = Plain(model, tiny_folder)
    flat = iter(scores["negatives"].tolist())
    for i, row in enumerate(rows):
        prefix = plain.bridge(plain.query(row))
        expected = plain.log_likelihood(prefix, row["positive"]).item()
        assert scores["positive"][i].item() == pytest.approx(expected, rel=1e-5)
        for ids in row["negatives"]:
            expected = plain.log_likelihood(prefix, ids).item()
            assert next(flat) == pytest.approx(expected, rel=1e-5)
        kept = scores["prefix"][i].double().reshape(prefix.shape)
        torch.testing.assert_close(kept, prefix, rtol=1e-3, atol=1e-3)
    assert next(flat, None) is None


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_in_batch_negatives_are_the_nearest_of_other_groups_and_texts(
    tiny_folder, count, reduction
):
    model = prepared(tiny_folder)
    settings = AlignmentSettings(in_batch_negatives=count, reduction=reduction, **WIDE)
    objective = Alignment(model, 300, settings)
    assert not objective.separable
    rows = triplets(model, negatives=(1, 0, 0, 2, 0, 1))
    rows[1]["group"] = rows[0]["group"]
    rows[3] |= {"positive": rows[2]["positive"]}
    rows[5] |= {"negatives": [rows[4]["positive"]]}
    rows[4] |= {"query": rows[3]["query"]}
    rows[0] |= {"positive": rows[5]["query"]}
    rows = with_own_references(objective, rows)
    shaken_rows = [{**row, "reference_positive": row["reference_positive"] - 3} for row in rows]
    assert_plain(objective, tiny_folder, shaken_rows)
    allowed = [len(further(rows, row)) for row in rows]
    pairs = 4 + sum(min(count, number) for number in allowed)
    assert objective(rows).sums["s2"][1] == pairs
    assert min(allowed) < 5


def test_rows_of_one_group_have_no_in_batch_negatives(tiny_folder):
    model = prepared(tiny_folder)
    objective = Alignment(model, 300, AlignmentSettings(in_batch_negatives=3))
    rows = triplets(model, negatives=(0, 0, 0))
    for row in rows:
        row["group"] = "the same"
    rows = with_own_references(objective, rows)
    assert objective(rows).sums["s2"] == (0.0, 0)
    assert objective(rows[:1]).loss == 0


def test_processes_with_and_without_in_batch_negatives_make_the_same_passes(
    tiny_folder, monkeypatch
):
    """Where weights are shared out, each pass waits for all processes."""
    model = prepared(tiny_folder)
    objective = Alignment(model, 300, AlignmentSettings(in_batch_negatives=2))
    objective.one_pass = True
    some = with_own_references(objective, triplets(model, negatives=(1, 1, 1)))
    none = [{**row, "group": "the same"} for row in some]
    passes = []
    log_probs = model.decoder.log_probs
    monkeypatch.setattr(
        model.decoder, "log_probs", lambda *given: passes.append(len(given[1])) or log_probs(*given)
    )
    made = []
    for rows in (some, none):
        passes.clear()
        pairs = objective(rows).sums["s2"][1]
        made.append((len(passes), pairs))
    assert made == [(2, 9), (2, 3)]


def test_a_contrastive_term_is_added_with_its_weight(tiny_folder):
    model = prepared(tiny_folder)
    settings = AlignmentSettings(contrastive_weight=0.7, contrastive_tau=0.2, **WIDE)
    objective = Alignment(model, 300, settings)
    assert not objective.separable
    rows = triplets(model, negatives=(1, 0, 2, 1))
    rows[3]["group"] = rows[0]["group"]
    assert_plain(objective, tiny_folder, rows)
    pure = Alignment(model, 300, dataclasses.replace(settings, contrastive_weight=0.0))
    term, count = objective(rows).sums["info_nce"]
    assert count == 4
    assert objective(rows).loss.item() == pytest.approx(pure(rows).loss.item() + 0.7 * term)


@pytest.mark.parametrize(("form", "weight"), [("log_ratio", 0.0), ("kl", 0.0), ("log_ratio", 0.7)])
def test_a_teachers_similarities_are_learnt_beside_it(
    tiny_folder, teacher_folder, tmp_path, form, weight
):
    model = prepared(tiny_folder)
    rows = triplets(model, negatives=(1, 0, 2, 1))
    rows[3]["positive"] = rows[0]["positive"]
    teacher, rows = taught(rows, model, [teacher_folder], tmp_path)
    settings = AlignmentSettings(
        form=form,
        contrastive_weight=weight,
        contrastive_tau=0.2,
        teacher_weight=3,
        teacher_cosine_weight=20,
        **WIDE,
    )
    objective = Alignment(model, 300, settings, teacher)
    assert objective.exchanges
    assert not objective.separable
    assert_plain(objective, tiny_folder, rows, vectors_of(rows, model, teacher_folder))
    pure = Alignment(model, 300, settings)
    sums = objective(rows).sums
    (divergence, count), (error, _) = sums["divergence"], sums["cosine_error"]
    assert count == 4
    added = 3 * divergence + 20 * error
    assert objective(rows).loss.item() == pytest.approx(pure(rows).loss.item() + added)
    assert "divergence" not in pure(rows).sums
    for row in rows:  # negatives are encoded too
        assert objective.encoder_tokens(row) == Contrastive(model, 300).encoder_tokens(row)


@pytest.mark.parametrize("form", ["log_ratio", "kl"])
def test_compression_goes_on_with_its_weight(tiny_folder, form):
    model = prepared(tiny_folder)
    settings = AlignmentSettings(form=form, compression_weight=0.6, **WIDE)
    objective = Alignment(model, 300, settings)
    assert objective.separable
    rows = triplets(model, negatives=(1, 0, 2))
    assert_plain(objective, tiny_folder, rows)
    pure = Alignment(model, 300, dataclasses.replace(settings, compression_weight=0.0))
    term, count = objective(rows).sums["nll"]
    assert count == 3
    assert objective(rows).loss.item() == pytest.approx(pure(rows).loss.item() + 0.6 * term)
    assert "nll" not in pure(rows).sums


def test_the_figures_are_what_their_names_say(tiny_folder):
    model = prepared(tiny_folder)
    objective = Alignment(model, 512, AlignmentSettings(reduction="mean", beta=0.4))
    rows = triplets(model)
    outcome = objective(rows)
    plain = Plain(model, tiny_folder)
    margins, gains = [], []
    for row in rows:
        prefix = plain.bridge(plain.query(row))

        def mean(ids, reference=0.0, prefix=prefix):
            return (plain.log_likelihood(prefix, ids).item() - reference) / (len(ids) + 1)

        for ids, reference in zip(row["negatives"], row["reference_negatives"], strict=True):
            margins.append(mean(row["positive"]) - mean(ids))
            gains.append(mean(row["positive"], row["reference_positive"]) - mean(ids, reference))
    sums = outcome.sums
    assert outcome.units == len(rows)
    assert sums["margin"] == (pytest.approx(sum(margins), abs=1e-3), 6)
    assert sums["reward_margin"] == (pytest.approx(sum(gains), abs=1e-3), 6)
    assert sums["preferred"] == (sum(margin > 0 for margin in margins), 6)
    slopes = torch.sigmoid(0.4 * torch.tensor(gains))
    assert sums["s2_saturated"] == (int((slopes * (1 - slopes) < 0.025).sum()), 6)
    queries, documents = outcome.vectors
    expected = torch.stack([plain.pooled(plain.query(row)) for row in rows])
    torch.testing.assert_close(
        queries.double(), torch.nn.functional.normalize(expected), rtol=1e-3, atol=1e-4
    )
    assert documents.shape == queries.shape


def test_texts_over_the_limit_are_cut_the_instruction_never(tiny_folder):
    model = prepared(tiny_folder, max_length=6)
    objective = Alignment(model, 512, AlignmentSettings(**WIDE))
    rows = triplets(model)
    cut = [
        row
        | {
            "query": row["query"][:6],
            "positive": row["positive"][:6],
            "negatives": [ids[:6] for ids in row["negatives"]],
        }
        for row in rows
    ]
    assert objective(rows).loss.item() == pytest.approx(objective(cut).loss.item(), rel=1e-6)
    assert_plain(objective, tiny_folder, cut)


def test_the_adapter_off_is_the_base_bit_for_bit_after_steps(tiny_folders):
    for family in ("llama", "gemma"):
        model = prepared(tiny_folders[family])
        settings = AlignmentSettings(in_batch_negatives=2, form="kl", **WIDE)
        objective = Alignment(model, 200, settings)
        rows = with_own_references(objective.eval(), triplets(model))
        objective.train()
        values = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(values, lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            objective(rows).loss.backward()
            optimizer.step()
        base = AutoRegModel.from_pretrained(tiny_folders[family], dtype="float32", device="cpu")
        base.neck.load_state_dict(model.neck.state_dict())
        latents = model.compress(TEXTS)
        assert torch.equal(
            model.log_likelihood(latents, TEXTS), base.log_likelihood(latents, TEXTS)
        )
