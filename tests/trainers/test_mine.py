"""Which negatives are chosen: against plain oracles, and as properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoreg_rag.lexical import BM25Index
from autoreg_trainers.mining.counts import Counts
from autoreg_trainers.mining.miner import Miner
from autoreg_trainers.mining.pool import Pool, normalised
from autoreg_trainers.mining.ranking import VectorScorer, WordScorer, rank
from autoreg_trainers.mining.row import Row
from autoreg_trainers.mining.settings import MiningError, Settings

WORDS = ["apple", "banana", "cherry", "grape", "lemon", "melon"]


def row(query, pos, neg=(), **more):
    return Row.of({"query": query, "pos": pos, "neg": list(neg), **more})


def miner_by_words(files, **settings):
    how = Settings(**settings)
    pool = Pool(files, max_group=how.max_group)
    return Miner(pool, [WordScorer(pool.passages)], how)


def mined(rows, counts=None, **settings):
    """Mine one file by BM25; give the negatives of each row."""
    miner = miner_by_words({"a": rows}, **settings)
    return list(miner.mine("a", rows, Counts() if counts is None else counts))


class Table:
    """Scores that are written down."""

    def __init__(self, scores):
        self._scores = np.array(scores, np.float32)

    def scores(self, rows):
        yield from self._scores


def mined_by_tables(rows, *tables, **settings):
    """Mine one file by scores of its passages, which the pool numbers as they come."""
    counts = Counts()
    pool = Pool({"a": rows})
    miner = Miner(pool, [Table(scores) for scores in tables], Settings(**settings))
    return list(miner.mine("a", rows, counts)), counts


@given(
    scores=st.lists(st.integers(-5, 20), min_size=1, max_size=30),
    margin=st.integers(0, 4).map(lambda quarters: quarters / 4),
    depth=st.integers(1, 12),
    data=st.data(),
)
def test_a_ranking_holds_the_best_that_keep_the_margin(scores, margin, depth, data):
    positive = data.draw(st.integers(0, len(scores) - 1))
    ranking = rank(np.array(scores, np.float32), [positive], margin=margin, depth=depth)
    others = [(-s, i) for i, s in enumerate(scores) if i != positive]
    limit = margin * scores[positive]
    assert ranking.passages == [i for s, i in sorted(others) if 0 < -s <= limit][:depth]
    assert ranking.above == sum(-s > limit for s, _ in others)


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
rows_of_words = st.lists(
    st.builds(
        row,
        texts,
        texts,
        st.lists(texts, max_size=2),
        group=st.sampled_from([None, None, "g", "h"]),
        source=st.sampled_from(["s", "t"]),
    ),
    min_size=1,
    max_size=12,
)


def oracle(rows, margin, depth, negatives, skip_top):
    """Choose by the rules as they are stated, one row and one passage at a time."""
    passages = list(dict.fromkeys(t for r in rows for t in (*r.positives, *r.negatives)))
    index = BM25Index((f"{i:03d}", text) for i, text in enumerate(passages))
    for r in rows:
        found = {passages[int(i)]: score for i, score in index.search([r.query], len(passages))[0]}
        limit = margin * found.get(r.positives[0], 0)
        looked_at = [t for t, score in found.items() if score <= limit and t != r.positives[0]][
            :depth
        ]
        answers = {r.query, *(o.positives[0] for o in rows if o.query == r.query)}
        relatives = {
            t
            for other in rows
            if r.group is not None and other.group == r.group
            for t in (*other.positives, *other.negatives)
        }
        kept = [t for t in dict.fromkeys(r.negatives) if t not in answers]
        good = [t for t in looked_at if t not in answers | relatives and t not in kept]
        yield [*kept, *good[skip_top : skip_top + max(0, negatives - len(kept))]]


@given(
    rows=rows_of_words,
    margin=st.sampled_from([0.5, 0.9, 1.0]),
    depth=st.integers(1, 5),
    negatives=st.integers(1, 4),
    skip_top=st.integers(0, 2),
)
def test_negatives_are_those_of_a_plain_search(rows, margin, depth, negatives, skip_top):
    how = {"margin": margin, "depth": depth, "negatives": negatives, "skip_top": skip_top}
    assert mined(rows, **how) == list(oracle(rows, **how))


varied = st.lists(
    st.sampled_from([*WORDS, "Apple", "BANANA", "ｃｈｅｒｒｙ", "...", "(grape)", "\n"]),
    min_size=1,
    max_size=4,
).map(" ".join)


@given(
    rows=st.lists(
        st.builds(row, varied, varied, group=st.sampled_from([None, 1, "1", "g"])),
        min_size=2,
        max_size=12,
    ),
    max_rows=st.integers(1, 4),
)
def test_no_negative_shares_group_or_text_with_a_positive(rows, max_rows):
    for r, negatives in zip(rows, mined(rows, margin=1, negatives=max_rows), strict=True):
        query = normalised(r.query)
        answers = {normalised(o.positives[0]) for o in rows if normalised(o.query) == query}
        relatives = {
            normalised(o.positives[0]) for o in rows if r.group is not None and o.group == r.group
        }
        found = [normalised(text) for text in negatives]
        assert not (answers | relatives | {query}).intersection(found)
        assert len(set(found)) == len(found) <= max_rows
        assert {normalised(o.positives[0]) for o in rows}.issuperset(found)


def test_the_margin_is_a_share_of_the_positives_score():
    rows = [row("q", "right"), row("x", "close"), row("y", "near"), row("z", "far")]
    table = [[10, 9.6, 9.5, 1], [0] * 4, [0] * 4, [0] * 4]
    negatives, counts = mined_by_tables(rows, table)
    assert negatives[0] == ["near", "far"]
    assert (counts.above_margin, counts.rows, counts.without, counts.mined) == (1, 4, 3, 2)
    table[0] = [9.6, 10, 9.5, 1]
    assert mined_by_tables(rows, table, margin=1)[0][0] == ["near", "far"]
    table[0] = [0, 10, 9.5, 1]
    assert mined_by_tables(rows, table)[0][0] == []


def test_of_several_positives_the_least_sets_the_limit_and_none_is_a_negative():
    rows = [row("q", ["right", "good"]), row("x", "a"), row("y", "b"), row("z", "c")]
    scores = [[9, 6, 8, 5, 5.8], *[[0] * 5] * 3]
    negatives, counts = mined_by_tables(rows, scores)
    assert negatives[0] == ["b"]
    assert counts.above_margin == 2


def test_two_rankings_take_turns_and_each_keeps_its_own_margin():
    rows = [row("q", "right"), row("x", "a"), row("y", "b"), row("z", "c"), row("w", "d")]
    nothing = [[0] * 5] * 4
    words = [[10, 9, 8, 7, 99], *nothing]
    model = [[1, 0.2, 0.99, 0.5, 0.9], *nothing]
    negatives, counts = mined_by_tables(rows, words, model, by="both")
    assert negatives[0] == ["a", "d", "b", "c"]
    assert counts.above_margin == 2


def test_given_negatives_come_first_and_contradictions_go():
    counts = Counts()
    rows = [
        row("apple banana", "apple banana cherry", ["banana", "Apple, banana!", "banana."]),
        row("Apple Banana?", "banana grape", ["apple banana CHERRY", "lemon"]),
        row("melon", "apple apple melon"),
    ]
    first, second, third = mined(rows, counts, margin=1)
    assert first == ["banana", "apple apple melon"]
    assert second == ["lemon"]
    assert third == []
    assert (counts.contradictory, counts.given, counts.mined) == (3, 2, 1)
    assert mined(rows, negatives=1, margin=1)[0] == ["banana"]


def test_groups_hold_across_files_of_one_source_only():
    target = row("apple banana", "apple banana", group="g", source="s")
    files = {
        "a": [target],
        "b": [row("x1", "apple lemon", group="g", source="s")],
        "c": [row("x2", "apple grape", group="g", source="t")],
        "d": [row("x3", "apple melon", source="s")],
    }
    miner = miner_by_words(files, pool="all", margin=1)
    counts = Counts()
    assert list(miner.mine("a", [target], counts)) == [["apple grape", "apple melon"]]
    assert counts.same_group == 1


def test_a_group_of_many_rows_can_be_taken_for_a_topic():
    rows = [row(f"apple {w}", f"apple {w} {w}", group="fruit") for w in WORDS[1:5]]
    counts = Counts()
    assert mined(rows, counts) == [[], [], [], []]
    assert counts.same_group == 12
    assert mined(rows, max_group=4) == [[], [], [], []]
    texts = [r.positives[0] for r in rows]
    for text, negatives in zip(texts, mined(rows, max_group=3), strict=True):
        assert sorted([text, *negatives]) == texts


def test_a_topic_is_told_by_its_queries_as_in_training():
    pairs = [("apple", "banana"), ("apple", "cherry"), ("grape", "lemon"), ("grape", "melon")]
    rows = [row(f"{kind} fruit", f"{kind} fruit {other}", group="g") for kind, other in pairs]
    assert mined(rows, max_group=2) == [[], [], [], []]
    assert any(mined(rows, max_group=1))


@pytest.mark.parametrize("none", [None, ""])
def test_a_group_without_a_name_is_none(none):
    rows = [row(f"apple {w}", f"apple {w} {w}", group=none) for w in WORDS[1:5]]
    assert all(mined(rows))


def test_by_the_model_the_nearest_vectors_are_taken(tiny_model):
    rows = [row(f"what is {a} {b}", f"{a} {b} is a fruit") for a in WORDS for b in WORDS]
    pool = Pool({"a": rows})
    passages = [r.positives[0] for r in rows]
    scorer = VectorScorer(tiny_model, pool.passages)
    found = list(Miner(pool, [scorer], Settings(by="model")).mine("a", rows, Counts()))
    queries = tiny_model.encode_queries([r.query for r in rows]).astype(np.float64)
    cosines = queries @ tiny_model.encode_documents(passages).astype(np.float64).T
    assert any(found)
    for i, negatives in enumerate(found):
        limit = 0.95 * cosines[i, i]
        order = np.argsort(-cosines[i])
        # Rounding decides between cosines that are almost equal.
        assert [cosines[i, passages.index(text)] for text in negatives] == pytest.approx(
            [cosines[i, j] for j in order if 0 < cosines[i, j] <= limit][:4], abs=1e-5
        )


def test_queries_that_are_like_their_positives_are_read_as_documents(tiny_model):
    kinds = ["nli", "qa", "paraphrase", None]
    rows = [row(word, word, kind=kind) for word, kind in zip(WORDS, kinds, strict=False)]
    found = np.stack(list(VectorScorer(tiny_model, WORDS).scores(rows)))
    queries = [each.query for each in rows]
    documents = tiny_model.encode_documents(WORDS).T
    asked = tiny_model.encode_queries(queries) @ documents
    alike = tiny_model.encode_documents(queries) @ documents
    assert not np.allclose(asked, alike, atol=1e-3)
    for i, kind in enumerate(kinds):
        expected = alike if kind in ("nli", "paraphrase") else asked
        np.testing.assert_allclose(found[i], expected[i], atol=1e-5)


def test_vectors_are_compared_in_blocks_without_a_difference(tiny_model, monkeypatch):
    scorer = VectorScorer(tiny_model, WORDS)
    rows = [row(word, word) for word in WORDS]
    whole = np.stack(list(scorer.scores(rows)))
    monkeypatch.setattr("autoreg_trainers.mining.ranking.BLOCK_SCORES", 2 * len(WORDS))
    np.testing.assert_allclose(np.stack(list(scorer.scores(rows))), whole, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"negatives": 0},
        {"skip_top": -1},
        {"depth": 0},
        {"max_group": 0},
        {"margin": 1.01},
        {"margin": -0.1},
        {"margin": float("nan")},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(MiningError, match=f"--{name.replace('_', '-')} is {wrong[name]};"):
        Settings(**wrong)
