"""How rows are shared among sources, kinds of records and tasks, as properties."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreg_trainers.data import Source
from autoreg_trainers.data.assignment import assigned
from autoreg_trainers.data.mixing import draw, filled, rows_by_source

WEIGHTS = st.floats(0.01, 100)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.lists(st.tuples(WEIGHTS, st.integers(0, 5000)), min_size=1))
def test_what_is_filled_is_full_or_in_proportion(total: int, parts: list[tuple[float, int]]):
    weights, limits = map(np.array, zip(*parts, strict=True))
    counts = filled(total, weights, limits)
    assert counts.sum() == min(total, limits.sum())
    assert (counts <= limits).all()
    # Where there is room left, the counts are in proportion, but for rounding;
    # where there is none, they would have been larger.
    is_open = counts < limits
    if is_open.any():
        per_weight = ((counts - 1) / weights)[is_open].max()
        assert (counts + 1 >= np.minimum(limits, per_weight * weights)).all()


@settings(max_examples=60)
@given(st.lists(st.tuples(WEIGHTS, st.integers(1, 5000)), min_size=2, max_size=8))
def test_without_a_bound_the_weights_hold(parts: list[tuple[float, int]]):
    sources = [Source("x", weight=weight) for weight, _ in parts]
    sizes = np.array([size for _, size in parts])
    counts = rows_by_source(sizes.tolist(), sources, None)
    weights = np.array([weight for weight, _ in parts])
    assert (counts <= sizes).all()
    if len(set(weights)) > 1 and not np.allclose(weights, weights[0]):
        expected = counts.sum() * weights / weights.sum()
        assert (abs(counts - expected) < 1).all()
        # One row more of each share would take more than some source has.
        assert (
            (counts.sum() + 1 / (weights / weights.sum()).min()) * weights / weights.sum() >= sizes
        ).any()


def test_equal_weights_without_a_bound_take_everything():
    sources = [Source("a", weight=2), Source("b", weight=2)]
    assert rows_by_source([3, 1000], sources, None).tolist() == [3, 1000]


def test_sources_that_all_repeat_end_with_the_longest():
    sources = [Source("a", repeat=True), Source("b", weight=3, repeat=True)]
    assert rows_by_source([10, 60], sources, None).tolist() == [20, 60]


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 100), st.integers(0, 9))
def test_a_draw_takes_each_row_before_any_again(size: int, count: int, seed: int):
    rows = np.arange(size) + 1000
    drawn = draw(np.random.default_rng(seed), rows, count)
    times = np.bincount(drawn - 1000, minlength=size)
    assert times.sum() == count
    assert times.max() - times.min() <= 1


@st.composite
def kinds(draw_: st.DrawFn):
    """Kinds of records of some sources, what they can serve, and how many are drawn."""
    tasks = draw_(st.integers(1, 4))
    sources = draw_(st.integers(1, 3))
    can, sizes, of_source, counts = [], [], [], []
    for source in range(sources):
        number = draw_(st.integers(1, 3))
        for _ in range(number):
            mask = draw_(st.lists(st.booleans(), min_size=tasks, max_size=tasks))
            mask[draw_(st.integers(0, tasks - 1))] = True
            can.append(mask)
            sizes.append(draw_(st.integers(1, 200)))
            of_source.append(source)
        counts.append(draw_(st.integers(0, sum(sizes[-number:]))))
    shares = np.array(draw_(st.lists(WEIGHTS, min_size=tasks, max_size=tasks)))
    return (
        np.array(can),
        np.array(sizes),
        np.array(of_source),
        np.array(counts),
        dict(enumerate(shares / shares.sum())),
    )


@settings(max_examples=60)
@given(kinds())
def test_every_total_but_the_tasks_is_exact(case):
    can, sizes, of_source, counts, shares = case
    given_ = assigned(can, sizes, sizes.astype(float), of_source, counts, shares)
    assert (given_ >= 0).all()
    assert not given_[~can].any()
    assert (given_.sum(axis=1) <= sizes).all()
    for source, count in enumerate(counts):
        assert given_[of_source == source].sum() == count


@settings(max_examples=60)
@given(kinds())
def test_tasks_that_all_can_serve_get_their_shares(case):
    can, sizes, of_source, counts, shares = case
    can = np.ones_like(can)
    found = assigned(can, sizes, sizes.astype(float), of_source, counts, shares).sum(axis=0)
    expected = np.array(list(shares.values())) * counts.sum()
    assert (abs(found - expected) <= len(shares)).all()


@settings(max_examples=60)
@given(kinds(), st.data())
def test_a_mixture_that_is_possible_is_found(case, data: st.DataObject):
    """Deal some records out at random; asked for that mixture, it comes out about so."""
    can, sizes, of_source, _, _ = case
    dealt = np.zeros(can.shape, dtype=int)
    for kind, size in enumerate(sizes):
        for task in np.flatnonzero(can[kind]):
            left = int(size - dealt[kind].sum())
            dealt[kind, task] = data.draw(st.integers(0, left))
    counts = np.array([dealt[of_source == s].sum() for s in range(of_source.max() + 1)])
    wanted = dealt.sum(axis=0)
    if not wanted.all():
        return
    shares = dict(enumerate(wanted / wanted.sum()))
    found = assigned(can, sizes, sizes.astype(float), of_source, counts, shares).sum(axis=0)
    assert (abs(found - wanted) <= 2 * len(shares) + 0.03 * wanted.sum()).all()


def test_a_task_is_spread_over_all_that_can_serve_it():
    can = np.ones((2, 2), dtype=bool)
    sizes = np.array([100, 300])
    found = assigned(
        can,
        sizes,
        sizes.astype(float),
        np.array([0, 1]),
        np.array([100, 300]),
        {"a": 0.5, "b": 0.5},
    )
    assert found.tolist() == [[50, 50], [150, 150]]


def test_many_small_kinds_add_up(caplog: pytest.LogCaptureFixture):
    """Rounding each kind by itself would never give the rare task anything."""
    can = np.ones((100, 2), dtype=bool)
    sizes = np.full(100, 2)
    sources = np.arange(100)
    with caplog.at_level(logging.WARNING):
        found = assigned(can, sizes, sizes.astype(float), sources, sizes, {"a": 0.9, "b": 0.1})
    assert found.sum(axis=0).tolist() == [180, 20]
    assert not caplog.messages
