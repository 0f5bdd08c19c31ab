"""Two scores become one: on one scale, with nothing lost that stands in one list only."""

import math
import random

import numpy as np
import pytest
from scipy.stats import zscore

from autoreg_rag.fusion import DEFAULT_ALPHA, hybrid_scores

DEPTH = 20


@pytest.fixture
def cosines() -> dict[str, float]:
    chance = random.Random(1)
    return {f"d{i}": chance.random() for i in chance.sample(range(40), DEPTH)}


@pytest.fixture
def words() -> dict[str, float]:
    chance = random.Random(2)
    return {f"d{i}": 30 * chance.random() for i in chance.sample(range(40), DEPTH)}


@pytest.mark.parametrize("alpha", [0, 0.3, DEFAULT_ALPHA, 1])
def test_a_score_is_the_weighted_sum_of_standard_scores(cosines, words, alpha):
    ids = sorted(cosines.keys() | words.keys())
    assert len(ids) > DEPTH
    by_cosine = zscore([cosines.get(id_, min(cosines.values())) for id_ in ids])
    by_words = zscore([words.get(id_, min(words.values())) for id_ in ids])
    expected = dict(zip(ids, alpha * by_cosine + (1 - alpha) * by_words, strict=True))
    fused = hybrid_scores(cosines, words, DEPTH, alpha)
    assert dict(fused) == pytest.approx(expected)
    near = dict(zip(ids, by_cosine, strict=True))
    assert fused == sorted(fused, key=lambda hit: (-hit[1], -near[hit[0]], hit[0]))


def test_what_a_list_that_ended_early_lacks_shares_no_word_with_the_question(cosines, words):
    full = dict(hybrid_scores(cosines, words, DEPTH))
    short = dict(hybrid_scores(cosines, words, DEPTH + 1))
    only_by_cosine = cosines.keys() - words.keys()
    explicit = words | dict.fromkeys(only_by_cosine, 0.0)
    assert short == pytest.approx(dict(hybrid_scores(cosines, explicit, DEPTH)))
    assert short != pytest.approx(full)


def test_the_only_passage_with_a_word_of_the_question_gains_by_it():
    cosines = {"a": 0.9, "b": 0.5, "c": 0.1}
    assert [id_ for id_, _ in hybrid_scores(cosines, {"c": 4.0}, DEPTH, 0.25)] == ["c", "a", "b"]
    plain = dict(hybrid_scores(cosines, {}, DEPTH))
    assert dict(hybrid_scores(cosines, {"c": 4.0}, DEPTH))["c"] > plain["c"]


def test_units_of_a_score_do_not_matter(cosines, words):
    scaled = {id_: 1000 * value for id_, value in words.items()}
    moved = {id_: 0.01 * value + 0.9 for id_, value in cosines.items()}
    expected = dict(hybrid_scores(cosines, words, DEPTH))
    assert dict(hybrid_scores(moved, scaled, DEPTH)) == pytest.approx(expected)


def test_the_ends_of_alpha_are_the_orders_of_the_lists(cosines, words):
    def best(ranking):
        return sorted(ranking, key=lambda id_: (-ranking[id_], id_))

    first = [id_ for id_, _ in hybrid_scores(cosines, words, DEPTH, 1)]
    assert first[: DEPTH - 1] == best(cosines)[:-1]  # what is missing ties with the last
    first = [id_ for id_, _ in hybrid_scores(cosines, words, DEPTH, 0)]
    assert first[: DEPTH - 1] == best(words)[:-1]


def test_equal_scores_are_ordered_by_id_whatever_the_order_of_the_lists():
    for ids in (["b", "a", "c"], ["c", "b", "a"]):
        fused = hybrid_scores(dict.fromkeys(ids, 0.5), dict.fromkeys(ids, 2.0), DEPTH)
        assert fused == [("a", 0.0), ("b", 0.0), ("c", 0.0)]
    assert hybrid_scores({}, {}, DEPTH) == []


def test_equal_scores_are_ordered_by_cosine_first():
    fused = hybrid_scores({"a": 0.1, "b": 0.3, "c": 0.2}, {"c": 2.0}, DEPTH, alpha=0)
    assert [id_ for id_, _ in fused] == ["c", "b", "a"]


def test_numbers_of_numpy_give_plain_ones(cosines):
    half = {id_: np.float32(value) for id_, value in cosines.items()}
    assert all(type(score) is float for _, score in hybrid_scores(half, {}, DEPTH))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_out_of_its_range_is_refused(cosines, words, alpha):
    with pytest.raises(ValueError, match=r"alpha is .*; it must be from 0 to 1"):
        hybrid_scores(cosines, words, DEPTH, alpha)
