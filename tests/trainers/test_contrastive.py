import pytest
import torch
from safetensors.torch import load_file

from autoreg_trainers.objectives import Contrastive
from tests.forkserver import run_ranks
from tests.trainers.gathering import BLOCK, OBJECTIVES, SHARES, rows_of, work
from tests.trainers.plain import (
    Plain,
    assert_same_gradients,
    finite_differences,
    gradients,
    prepared,
    triplets,
)
from tests.trainers.teaching import taught, vectors_of


def assert_plain(objective, folder, rows, vectors=()):
    """Compare loss and gradients with those of the plain graph, kept whole."""
    plain = Plain(objective.model, folder)
    expected = plain.contrastive(rows, objective.tau)
    if vectors:
        divergence = plain.divergence(rows, vectors, objective.tau)
        expected = expected + objective.teacher_weight * divergence
        error = plain.cosine_error(rows, vectors)
        expected = expected + objective.teacher_cosine_weight * error
    outcome, found = gradients(objective, rows)
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    wanted = plain.gradients(expected)
    assert any(value.any() for value in wanted.values())
    assert_same_gradients(found, wanted)


@pytest.mark.parametrize(
    ("family", "tuning", "pooling"),
    [
        ("llama", "lora", "mean"),
        ("llama", "full", "mean"),
        ("llama", "lora", "last"),
        ("llama", "lora", "concat"),
        ("qwen", "lora", "mean"),
        ("mistral", "lora", "mean"),
        ("gemma", "full", "mean"),
    ],
)
def test_loss_and_gradients_are_those_of_the_plain_graph(tiny_folders, family, tuning, pooling):
    model = prepared(tiny_folders[family], tuning, pooling=pooling)
    assert_plain(Contrastive(model, 512, tau=0.3), tiny_folders[family], triplets(model))


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("budget", [1, 150, 10_000])
def test_neither_budget_nor_passes_change_loss_or_gradients(tiny_folder, budget, one_pass):
    model = prepared(tiny_folder)
    objective = Contrastive(model, budget, tau=0.3)
    objective.one_pass = one_pass
    assert_plain(objective, tiny_folder, triplets(model))


def test_what_the_backward_pass_begins_with_is_not_worked_out_again(tiny_folder, monkeypatch):
    model = prepared(tiny_folder)
    texts = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]
    read = []
    latents = model.encoder.latents

    def recording(batch):
        read.append(len(batch))
        return latents(batch)

    monkeypatch.setattr(model.encoder, "latents", recording)
    each = 3 + model.neck.k
    for budget, again in ((3 * each, 0), (2 * each, 1), (each, 2), (each - 1, 3)):
        read.clear()
        encoded = Contrastive(model, budget).encode(texts)
        once = list(read)
        assert sum(once) == len(texts)
        encoded.sum().backward()
        assert len(read) - len(once) == again, budget


def test_gradients_are_the_slopes_of_the_plain_loss(tiny_folder):
    model = prepared(tiny_folder)
    rows = triplets(model, negatives=(1, 0, 2))
    _, found = gradients(Contrastive(model, 200, tau=0.3), rows)
    plain = Plain(model, tiny_folder)
    largest = max(float(value.abs().max()) for value in found.values())
    checked = 0
    for name, place, slope in finite_differences(plain, lambda: plain.contrastive(rows, 0.3)):
        gradient = found[name].flatten()[place].item()
        assert gradient == pytest.approx(slope, rel=5e-3, abs=1e-5 * largest), name
        checked += gradient != 0
    assert checked > 10


def test_the_order_of_rows_changes_nothing(tiny_folder):
    model = prepared(tiny_folder)
    objective = Contrastive(model, 512, tau=0.3)
    assert not objective.separable
    rows = triplets(model)
    assert list(objective.parts(rows, 1)) == [rows]
    outcome, found = gradients(objective, rows)
    backwards, reverse = gradients(objective, rows[::-1])
    assert backwards.loss.item() == pytest.approx(outcome.loss.item(), rel=1e-5)
    assert_same_gradients(reverse, {name: value.double() for name, value in found.items()})


def test_one_group_and_one_text_are_never_negatives(tiny_folder):
    model = prepared(tiny_folder)
    objective = Contrastive(model, 512, tau=0.3)
    rows = triplets(model, negatives=(1, 0, 2, 0))
    rows[1]["group"] = rows[0]["group"]
    rows[3]["positive"] = rows[2]["positive"]
    assert_plain(objective, tiny_folder, rows)
    alone = triplets(model, negatives=(0, 0, 0))
    for row in alone:
        row["group"] = "the same"
    assert objective(alone).loss.item() == 0
    apart = [{**row, "positive": alone[0]["positive"], "group": ""} for row in alone]
    assert objective(apart).loss.item() == 0
    assert objective(alone[:1]).loss.item() == 0


def test_a_negative_that_is_a_positive_of_the_querys_group_is_left_out(tiny_folder):
    """A miner may find for one row what answers another."""
    model = prepared(tiny_folder)
    objective = Contrastive(model, 512, tau=0.3)
    rows = triplets(model, negatives=(1, 1, 2))
    rows[1]["group"] = rows[0]["group"]
    rows[2]["negatives"] = [rows[1]["positive"], rows[0]["positive"]]
    rows[0]["negatives"] = [rows[0]["positive"]]
    assert_plain(objective, tiny_folder, rows)


def test_other_answers_to_a_query_and_its_own_text_are_never_negatives(tiny_folder):
    model = prepared(tiny_folder)
    objective = Contrastive(model, 512, tau=0.3)
    rows = triplets(model, negatives=(1, 0, 2, 1))
    rows[1]["query"] = rows[0]["query"]
    rows[2]["negatives"] = [rows[0]["query"], rows[1]["positive"]]
    rows[3]["positive"] = rows[2]["query"]
    assert_plain(objective, tiny_folder, rows)
    two = triplets(model, negatives=(0, 0))
    two[1]["query"] = two[0]["query"]
    assert two[0]["group"] != two[1]["group"]
    assert objective(two).loss.item() == 0
    assert objective([{**two[0], "negatives": [two[0]["query"]]}]).loss.item() == 0


def test_each_hard_negative_counts(tiny_folder):
    model = prepared(tiny_folder)
    objective = Contrastive(model, 512, tau=0.3)
    rows = triplets(model, negatives=(2, 1))
    losses = [objective(rows).loss.item()]
    for row in (rows[0], rows[0], rows[1]):
        row["negatives"] = row["negatives"][1:]
        losses.append(objective(rows).loss.item())
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4


def test_the_figures_are_loss_and_accuracy(tiny_folder):
    model = prepared(tiny_folder)
    objective = Contrastive(model, 512, tau=0.3)
    rows = triplets(model)
    plain = Plain(model, tiny_folder)
    outcome = objective(rows)
    first = 0
    for row in rows:
        query = plain.query(row)
        own = plain.cosine(query, plain.document(row["positive"]))
        others = [x["positive"] for x in rows if x is not row]
        others += [ids for x in rows for ids in x["negatives"]]
        first += all(own > plain.cosine(query, plain.document(ids)) for ids in others)
    assert outcome.units == 4
    assert outcome.sums["ranked_first"] == (first, 4)
    assert outcome.sums["info_nce"] == (pytest.approx(outcome.loss.item()), 4)
    assert [vectors.shape for vectors in outcome.vectors] == [(4, 32), (4, 32)]


def test_steps_rank_the_positives_first(tiny_folder):
    model = prepared(tiny_folder)
    objective = Contrastive(model, 512, tau=0.1).train()
    rows = triplets(model)
    values = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(values, lr=1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        outcome = objective(rows)
        outcome.loss.backward()
        optimizer.step()
    assert outcome.sums["ranked_first"] == (4, 4)


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("budget", [150, 10_000])
def test_a_teachers_similarities_are_learnt_with_their_weight(
    tiny_folder, teacher_folder, tmp_path, budget, one_pass
):
    """Of all texts, also of those that are no candidates of InfoNCE."""
    model = prepared(tiny_folder)
    rows = triplets(model)
    rows[1]["group"] = rows[0]["group"]
    rows[3]["positive"] = rows[2]["positive"]
    rows[3]["negatives"][1] = rows[0]["positive"]
    teacher, rows = taught(rows, model, [teacher_folder], tmp_path)
    vectors = vectors_of(rows, model, teacher_folder)
    weights = {"teacher_weight": 3, "teacher_cosine_weight": 50}
    objective = Contrastive(model, budget, tau=0.3, teacher=teacher, **weights)
    objective.one_pass = one_pass
    assert_plain(objective, tiny_folder, rows, vectors)
    sums = objective(rows).sums
    plain = Plain(model, tiny_folder)
    expected = plain.divergence(rows, vectors, 0.3).item(), plain.cosine_error(rows, vectors).item()
    assert sums["divergence"] == (pytest.approx(expected[0], rel=1e-4), 4)
    assert sums["cosine_error"] == (pytest.approx(expected[1], rel=1e-4), 4)
    pure = Contrastive(model, budget, tau=0.3)(rows).sums
    assert sums["info_nce"] == (pytest.approx(pure["info_nce"][0], rel=1e-5), 4)
    assert sums["ranked_first"] == pure["ranked_first"]


@pytest.mark.parametrize(
    ("figure", "weights"),
    [
        ("divergence", {"teacher_weight": 100}),
        ("cosine_error", {"teacher_weight": 0, "teacher_cosine_weight": 1000}),
    ],
)
def test_steps_bring_the_similarities_near_the_teachers(
    tiny_folder, teacher_folder, tmp_path, figure, weights
):
    model = prepared(tiny_folder)
    teacher, rows = taught(triplets(model), model, [teacher_folder], tmp_path)
    objective = Contrastive(model, 512, tau=0.3, teacher=teacher, **weights).train()
    values = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(values, lr=1e-2)
    seen = []
    for _ in range(15):
        optimizer.zero_grad()
        outcome = objective(rows)
        outcome.loss.backward()
        optimizer.step()
        seen.append(outcome.sums[figure][0])
    assert seen[-1] < 0.2 * seen[0]


@pytest.fixture(scope="module")
def shares(tiny_folder, teacher_folder, tmp_path_factory):
    """What two processes leave of their shares of one batch, by kind of objective."""
    out = tmp_path_factory.mktemp("shares")
    run_ranks(work, tiny_folder, teacher_folder, out, count=len(SHARES))
    return {
        kind: [load_file(out / f"{kind}-{rank}.safetensors") for rank in range(len(SHARES))]
        for kind in (*OBJECTIVES, "read")
    }


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_two_processes_are_as_one(tiny_folder, teacher_folder, tmp_path, shares, kind):
    """Losses add up to that of the whole batch in one process, and so do gradients."""
    shares = shares[kind]
    model = prepared(tiny_folder)
    teacher, rows = taught(rows_of(model), model, [teacher_folder], tmp_path)
    objective = OBJECTIVES[kind](model, teacher).train()
    assert objective.exchanges
    outcome, expected = gradients(objective, rows)
    assert sum(share["loss"].item() for share in shares) == pytest.approx(
        outcome.loss.item(), rel=1e-5
    )
    figures = ["ranked_first", *({"divergence"} & outcome.sums.keys())]
    assert ("divergence" in figures) == kind.startswith("taught")
    for name in figures:
        total = sum(share[name].item() for share in shares)
        assert total == pytest.approx(outcome.sums[name][0], rel=1e-5)
    found = {name: sum(share[name].double() for share in shares) for name in expected}
    assert_same_gradients(found, {name: value.double() for name, value in expected.items()})
    alone = objective(rows[slice(*SHARES[0])]).loss
    assert shares[0]["held_back"].item() == pytest.approx(alone.item(), rel=1e-5)


def test_processes_share_the_teachers_reading(shares, tiny_folder):
    rows = rows_of(prepared(tiny_folder))
    texts = {(row["symmetric"], *row["query"]) for row in rows}
    texts |= {(True, *ids) for row in rows for ids in [row["positive"], *row["negatives"]]}
    first, second = (int(share["read"]) for share in shares["read"])
    assert first + second == len(texts)
    assert 0 <= first - second <= BLOCK < second
