"""Rows for training: a sentence, a lossy copy of it, and two that are not to be taken for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from autoreg_rag.lexical import BM25Index
from autoreg_trainers.sentence_pairs.copies import lossy, worse
from autoreg_trainers.sentence_pairs.passages import Sentence

_DEPTH = 3
"""BM25's best: the sentence itself, one that may be its copy, and the one that is looked for."""


def pairs(sentences: Sequence[Sentence], count: int, random: Random) -> Iterator[dict[str, Any]]:
    """Yield a row each for some sentences, in any order.

    A row's first negative or its second is a worse copy of the sentence, the other
    is the sentence that BM25 ranks first of all others. One that shares no word
    with any other gives no row. No negative is the query or the positive, in
    whatever case.

    Parameters
    ----------
    sentences
        All that were taken.
    count
        For how many of them to make rows.
    random
        Draws them and makes their copies.
    """
    index = BM25Index((str(number), text) for number, (text, _) in enumerate(sentences))
    chosen = random.sample(range(len(sentences)), count)
    hits = index.search([sentences[number].text for number in chosen], _DEPTH)
    for number, found in zip(chosen, hits, strict=True):
        text, passage = sentences[number]
        words = text.split()
        copy = " ".join(lossy(words, random))
        near = [sentences[int(id_)].text for id_, _ in found if int(id_) != number]
        near = [other for other in near if other.casefold() != copy.casefold()]
        if not near:
            continue
        known = {other.casefold() for other in (text, copy, near[0])}
        changed = text
        # This ends: a worse copy may be a part of the sentence, shorter than all that is known.
        while changed.casefold() in known:
            changed = " ".join(worse(words, passage.text.split(), random))
        query, positive = random.sample([text, copy], 2)
        yield {
            "query": query,
            "pos": positive,
            "neg": random.sample([changed, near[0]], 2),
            "kind": "paraphrase",
            "source": passage.source,
        }
