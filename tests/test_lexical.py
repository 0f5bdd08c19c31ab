from __future__ import annotations

import math
import os
import random
import re
import subprocess
import sys
import unicodedata
from collections import Counter

import pytest

from autoreg_rag.lexical import BM25Index

K1, B = 1.5, 0.75

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))

TEXTS = {
    "d1": "the cat sat on the mat; the cat slept",
    "d2": "a dog chased the cat around the garden",
    "d3": "gardens and dogs",
    "d4": "",
    "d5": "Résumé of the dog DOG dog",
    "d6": "x y z",
}


def words(text: str) -> list[str]:
    return re.findall(r"\w\w+", text.lower())


def lucene_bm25(texts: dict[str, str], query: str) -> dict[str, float]:
    """BM25 as Kamphuis et al. (2020) write Lucene's accurate variant, without (k1 + 1)."""
    counts = {id_: Counter(words(text)) for id_, text in texts.items()}
    average = sum(sum(count.values()) for count in counts.values()) / len(texts)
    scores = dict.fromkeys(texts, 0.0)
    for term in words(query):
        frequency = sum(term in count for count in counts.values())
        idf = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
        for id_, count in counts.items():
            length = 1 - B + B * sum(count.values()) / average
            scores[id_] += idf * count[term] / (count[term] + K1 * length)
    return {id_: score for id_, score in scores.items() if score > 0}


def random_texts(number: int, seed: int = 0) -> dict[str, str]:
    chance = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(40)]
    return {
        f"t{i}": " ".join(chance.choices(vocabulary, k=chance.randrange(30))) for i in range(number)
    }


@pytest.mark.parametrize("query", ["the cat", "dog dog garden", "résumé", "dog", "the THE the"])
def test_scores_are_those_of_the_formula(query: str):
    (hits,) = BM25Index(TEXTS.items(), english=False).search([query], 10)
    assert dict(hits) == pytest.approx(lucene_bm25(TEXTS, query), rel=1e-5)


def test_hits_come_best_first_and_are_the_top_of_the_whole_ranking():
    texts = random_texts(200)
    index = BM25Index(texts.items(), english=False)
    query = "w1 w2 w3"
    (every,) = index.search([query], len(texts))
    assert [score for _, score in every] == sorted((s for _, s in every), reverse=True)
    assert dict(every) == pytest.approx(lucene_bm25(texts, query), rel=1e-5)
    for k in (1, 2, 10, 57):
        assert index.search([query], k) == [every[:k]]


def test_more_documents_than_one_batch_score_as_the_formula_says():
    texts = random_texts(2100)
    index = BM25Index(iter(texts.items()), english=False)
    assert len(index) == 2100
    assert index.ids == list(texts)
    for query in ("w7 w8", "w39"):
        (hits,) = index.search([query], 3000)
        assert dict(hits) == pytest.approx(lucene_bm25(texts, query), rel=1e-5)


def test_documents_that_share_no_word_with_the_query_are_not_found():
    index = BM25Index(TEXTS.items())
    assert index.search(["zebra", "", "the of and"], 10) == [[], [], []]
    assert {id_ for id_, _ in index.search(["garden"], 10)[0]} == {"d2", "d3"}


def test_equal_scores_are_ordered_by_id_also_where_the_list_is_cut():
    ids = ["e", "c", "a", "d", "b"]
    index = BM25Index([(id_, "equal words") for id_ in ids] + [("f", "others")])
    (hits,) = index.search(["equal"], 3)
    assert [id_ for id_, _ in hits] == ["a", "b", "c"]


@pytest.mark.parametrize("documents", [[], [("a", ""), ("b", "- !")]])
def test_an_index_without_words_finds_nothing(documents):
    index = BM25Index(documents)
    assert index.search(["anything", "else"], 5) == [[], []]


def test_no_queries_give_no_lists():
    assert BM25Index(TEXTS.items()).search([], 5) == []


def test_english_words_match_in_all_their_forms():
    documents = [("a", "He was running through connected rooms"), ("b", "A quiet place")]
    assert BM25Index(documents).search(["run connection"], 5)[0][0][0] == "a"
    assert BM25Index(documents, english=False).search(["run connection"], 5) == [[]]


def test_a_limit_of_none_at_all_gives_empty_lists_and_a_negative_one_an_error():
    index = BM25Index(TEXTS.items())
    assert index.search(["cat", "dog"], 0) == [[], []]
    with pytest.raises(ValueError, match="must not be negative"):
        index.search(["cat"], -1)


def test_bm25s_is_loaded_when_it_is_needed_and_leaves_gpus_to_others():
    """It runs JAX on import, where JAX is installed."""
    code = (
        "import os, sys\n"
        "from autoreg_rag.lexical import BM25Index\n"
        "print('bm25s' in sys.modules)\n"
        "BM25Index([('1', 'some words')])\n"
        "print('bm25s' in sys.modules, os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XLA_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["False", "True", "false"]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("snake", "snake_case name"),
        ("snake_case", "a snake in a case"),
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        ("भाषा", "हिन्दी भाषा"),
        # Scripts without spaces between words.
        ("東京タワー", "夜の東京タワーは美しい。"),
        ("北京", "北京是中国的首都"),
        ("กรุงเทพ", "เมืองหลวงคือกรุงเทพมหานคร"),
        ("首都 capital", "the capital首都"),
    ],
)
def test_a_word_is_found_however_it_is_written(query, text):
    index = BM25Index([("one", text), ("other", "nothing of it")])
    (hits,) = index.search([query], 2)
    assert [id_ for id_, _ in hits] == ["one"]
