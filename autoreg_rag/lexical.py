"""Lexical search: BM25."""

from __future__ import annotations

import importlib
import logging
import os
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice, pairwise
from typing import Any

import numpy as np
import Stemmer
from numpy.typing import NDArray

BATCH = 1024
K1 = 1.5
B = 0.75

_MARKS = "".join(
    chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
WORD = rf"(?:[^\W_][{_MARKS}]*){{2,}}"
"""Letters and digits with the marks that belong to them, which ``\\w`` leaves out."""

_SPACELESS = "".join(
    f"{chr(first)}-{chr(last)}"
    for first, last in (
        *((0xE01, 0xE4E), (0xE81, 0xEDF), (0x1000, 0x109F), (0x1780, 0x17D3)),  # Thai to Khmer
        *((0x3005, 0x3007), (0x3041, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x30FF)),  # Kana
        *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),  # Han
    )
)
_LETTER = re.compile(rf"[{_SPACELESS}][{_MARKS}]*")
_RUN = re.compile(rf"(?:{_LETTER.pattern}){{2,}}")
"""Letters of scripts that put no spaces between words."""


class BM25Index:
    """Texts that are found by their words.

    The score is BM25 as Lucene computes it (Kamphuis et al., ECIR 2020), with
    k1 = 1.5 and b = 0.75. Words are runs of two or more letters, with their marks, or digits,
    in lower case and composed form (NFC); in scripts without spaces (Chinese, Japanese, Thai
    ...) each two letters that follow one another. Unless `english` is false, English stop words
    (NLTK's list) count for nothing, and words of one stem (Snowball's) count as the same.

    Parameters
    ----------
    documents
        Pairs of id and text. They stream through: some 13 bytes per word stay in memory.
    english
        Whether to remove stop words and endings of English.

    Attributes
    ----------
    ids
        Of all documents, in the order in which they came.
    """

    def __init__(self, documents: Iterable[tuple[str, str]], *, english: bool = True) -> None:
        self.ids: list[str] = []
        self.english = english
        self._bm25: Any = None  # stays None where no document has a word
        vocabulary: dict[str, int] = {}
        words: list[array[int]] = []
        for batch in _batches(documents):
            self.ids.extend(id_ for id_, _ in batch)
            for tokens in _tokenize([text for _, text in batch], english):
                words.append(
                    array("i", (vocabulary.setdefault(t, len(vocabulary)) for t in tokens))
                )
        if vocabulary:
            self._bm25 = _bm25s().BM25(k1=K1, b=B)
            self._bm25.index((words, vocabulary), create_empty_token=False, show_progress=False)

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.ids)

    def search(self, queries: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
        """Find for each query the `k` best documents that share a word with it.

        Returns
        -------
        list of list of (id, score)
            One list per query, best first; equal scores are ordered by id.
        """
        if k < 0:
            raise ValueError(f"k is {k}; it must not be negative")
        return [self._best(scores, k) for scores in self.scores(queries)]

    def scores(self, queries: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Yield for each query the scores of all documents, in the order of `ids`.

        Returns
        -------
        iterator of ndarray
            float32 [n]; 0 for a document that shares no word with the query.
        """
        for tokens in _tokenize(queries, self.english):
            if self._bm25 is None:
                yield np.zeros(len(self), np.float32)
            else:
                yield self._bm25.get_scores_from_ids(self._bm25.get_tokens_ids(tokens))

    def _best(self, scores: NDArray[np.float32], k: int) -> list[tuple[str, float]]:
        found = np.flatnonzero(scores)
        found = found[with_ties(scores[found], k)]
        hits = [(self.ids[i], float(scores[i])) for i in found]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]


def with_ties(scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return the places of the k highest scores and of all that tie with the k-th, unsorted.

    So ids can decide which of equal scores stay.
    """
    if len(scores) <= k:
        return np.arange(len(scores))
    return np.flatnonzero(scores >= np.partition(scores, -k)[-k])


@cache
def _bm25s() -> Any:
    """Import bm25s, which runs JAX when it is imported, where JAX is installed."""
    # JAX would take three quarters of a GPU's memory, and keep them.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    module = importlib.import_module("bm25s")
    # It sets its logger to DEBUG on import, past whatever the application chose.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return module


def _tokenize(texts: Sequence[str], english: bool) -> list[list[str]]:
    tokens: list[list[str]] = _bm25s().tokenize(
        [_RUN.sub(_pairs, unicodedata.normalize("NFC", text)) for text in texts],
        token_pattern=WORD,
        stopwords="english_plus" if english else [],
        stemmer=Stemmer.Stemmer("english") if english else None,
        return_ids=False,
        show_progress=False,
    )
    return tokens


def _pairs(run: re.Match[str]) -> str:
    """Spell each two letters that follow one another as a word."""
    words = [first + second for first, second in pairwise(_LETTER.findall(run.group()))]
    return f" {' '.join(words)} "


def _batches(documents: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    rest = iter(documents)
    while batch := list(islice(rest, BATCH)):
        yield batch
