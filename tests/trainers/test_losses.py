import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from autoreg_trainers.losses import (
    ALIGNMENT_FORMS,
    alignment_score,
    cda_loss,
    cosine_error,
    info_nce,
    listwise_divergence,
    saturated,
    separation_score,
)

BETAS = st.floats(0.01, 2)
NATS = st.floats(0, 60)
SCORES = st.floats(-1, 0)
TAUS = st.floats(0.05, 2)
LISTS = st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=1, max_size=4)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


@given(NATS, BETAS)
def test_s1_as_printed(distance, beta):
    for form in ("log_ratio", "kl", "js"):
        found = alignment_score(double(distance), beta, form)
        assert found.item() == pytest.approx(-sigmoid(beta * distance), rel=1e-9)
    found = alignment_score(double(distance), beta, "log_sigmoid")
    assert found.item() == pytest.approx(math.log(sigmoid(-beta * distance)), rel=1e-9)


@given(NATS, st.floats(0.1, 10), BETAS)
def test_s1_falls_with_the_distance(distance, more, beta):
    for form in ALIGNMENT_FORMS:
        near, far = alignment_score(double(distance, distance + more), beta, form)
        assert near >= far
        if beta * (distance + more) < 20:
            assert near > far


@given(st.floats(-60, 60), st.floats(-60, 60), BETAS)
def test_s2_as_printed_falls_as_the_positive_gains_on_the_negative(positive, negative, beta):
    found = separation_score(double(positive), double(negative), beta)
    assert found.item() == pytest.approx(-sigmoid(beta * (positive - negative)), rel=1e-9)
    assert separation_score(double(positive + 1), double(negative), beta) <= found
    assert separation_score(double(positive), double(negative + 1), beta) >= found


def test_s2_starts_at_one_half_whatever_the_reference_was():
    """The reference is subtracted, not added: no gain, no preference."""
    score = torch.tensor([-70.0, -12.5, -300.0])
    gain = score - score
    assert separation_score(gain, gain, 0.1).tolist() == [-0.5, -0.5, -0.5]


@given(SCORES, st.lists(SCORES, max_size=5), TAUS)
def test_l_cda_as_printed(first, seconds, tau):
    table = double(*seconds)[None]
    terms = [math.exp(first / tau), *(math.exp(score / tau) for score in seconds)]
    found = cda_loss(double(first), table, tau)
    assert found.item() == pytest.approx(-math.log(terms[0] / sum(terms)), rel=1e-9, abs=1e-12)
    spread = torch.cat([table, torch.full((1, 3), -torch.inf)], dim=1)
    torch.testing.assert_close(cda_loss(double(first), spread, tau), found)


def test_a_row_without_negatives_has_no_loss_and_no_gradient():
    first = torch.tensor([-0.7, -0.6], requires_grad=True)
    table = torch.tensor([[-torch.inf, -torch.inf], [-0.4, -torch.inf]], requires_grad=True)
    loss = cda_loss(first, table, 0.1)
    assert loss[0] == 0
    loss.sum().backward()
    assert first.grad[0] == 0
    assert first.grad[1] < 0
    assert torch.isfinite(first.grad).all()
    assert torch.isfinite(table.grad).all()
    assert table.grad[1, 0] > 0


@pytest.mark.parametrize("form", ALIGNMENT_FORMS)
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e3, 1e6])
def test_losses_stay_finite_far_out(form, size):
    distance = torch.tensor([size], requires_grad=True)
    gains = torch.tensor([[size, -size]], requires_grad=True)
    first = alignment_score(distance, 0.1, form)
    second = separation_score(gains[:, :1], gains, 0.1)
    loss = cda_loss(first, second, 0.1).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(distance.grad).all()
    assert torch.isfinite(gains.grad).all()


@given(LISTS, TAUS)
def test_info_nce_as_printed(rows, tau):
    similarities = double(*rows).reshape(len(rows), 4)
    positives = torch.arange(len(rows)) % 4
    for row, place, loss in zip(
        rows, positives, info_nce(similarities, positives, tau), strict=True
    ):
        terms = [math.exp(value / tau) for value in row]
        expected = -math.log(terms[int(place)] / sum(terms))
        assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_what_is_no_candidate_counts_nothing():
    similarities = torch.tensor([[0.3, 0.9, -0.2]], requires_grad=True)
    hidden = similarities.masked_fill(torch.tensor([[False, True, False]]), -torch.inf)
    place = torch.tensor([0])
    loss = info_nce(hidden, place, 0.5)
    torch.testing.assert_close(loss, info_nce(similarities[:, [0, 2]], place, 0.5))
    loss.sum().backward()
    assert similarities.grad[0, 1] == 0


@given(LISTS, LISTS, TAUS)
def test_the_listwise_divergence_is_that_of_the_shares_of_similarity(wanted, found, tau):
    pairs = list(zip(wanted, found, strict=False))
    teacher, student = (double(*rows) for rows in zip(*pairs, strict=True))
    student.requires_grad_()
    divergence = listwise_divergence(teacher, student, tau)
    p = softmax(teacher.numpy() / tau, axis=1)
    q = softmax(student.detach().numpy() / tau, axis=1)
    assert divergence.tolist() == pytest.approx(rel_entr(p, q).sum(axis=1), rel=1e-9, abs=1e-12)
    assert divergence.min() > -1e-12
    divergence.sum().backward()
    torch.testing.assert_close(student.grad, torch.from_numpy((q - p) / tau))


@given(LISTS, st.floats(-3, 3), TAUS)
def test_only_differences_of_similarities_are_asked_for(rows, constant, tau):
    teacher = double(*rows)
    student = teacher.flip(1)
    none = torch.zeros(len(rows), dtype=torch.float64)
    torch.testing.assert_close(listwise_divergence(teacher, teacher + constant, tau), none)
    divergence = listwise_divergence(teacher, student, tau)
    for changed in (
        listwise_divergence(teacher + constant, student, tau),
        listwise_divergence(teacher, student - constant, tau),
    ):
        torch.testing.assert_close(changed, divergence)


@given(LISTS, LISTS)
def test_the_cosine_error_is_the_mean_square_of_each_row(wanted, found):
    pairs = list(zip(wanted, found, strict=False))
    teacher, student = (double(*rows) for rows in zip(*pairs, strict=True))
    expected = ((teacher - student).numpy() ** 2).mean(axis=1)
    assert cosine_error(teacher, student).tolist() == pytest.approx(expected)


@given(st.floats(-50, 50))
def test_saturated_is_where_the_slope_is_below_a_tenth_of_its_largest(argument):
    value = double(argument).requires_grad_()
    (slope,) = torch.autograd.grad(torch.sigmoid(value).sum(), value)
    if abs(slope.item() - 0.025) > 1e-9:
        assert saturated(value).item() == (slope.item() < 0.1 * 0.25)
