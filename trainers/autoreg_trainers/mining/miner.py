"""Choosing negatives for rows, past the guards against false ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest

from autoreg_trainers.mining.counts import Counts
from autoreg_trainers.mining.pool import Pool
from autoreg_trainers.mining.ranking import Scorer, Scores, rank
from autoreg_trainers.mining.row import Row
from autoreg_trainers.mining.settings import Settings


class Miner:
    """Chooses for each row the best passages that are no answer to its query.

    Parameters
    ----------
    pool
        The passages to choose from; it holds those of the rows themselves.
    scorers
        What ranks them. Of several, each names a candidate in turn, and the
        margin holds for each by its own scores.
    settings
        How to choose.
    """

    def __init__(self, pool: Pool, scorers: Sequence[Scorer], settings: Settings) -> None:
        self.pool = pool
        self.scorers = scorers
        self.settings = settings

    def mine(self, file: str, rows: Sequence[Row], counts: Counts) -> Iterator[list[str]]:
        """Yield the negatives of each row: those it came with, then mined ones.

        Parameters
        ----------
        file
            The name by which the pool knows the rows' file.
        rows
            The rows.
        counts
            Is added to as the rows go by.
        """
        by_scorer = [scorer.scores(rows) for scorer in self.scorers]
        for row, *scores in zip(rows, *by_scorer, strict=True):
            given = self._given(row, counts)
            lacking = max(0, self.settings.negatives - len(given))
            mined: list[int] = []
            if lacking:
                start = self.settings.skip_top
                candidates = self._candidates(row, scores, counts)
                passing = self._passing(file, row, set(given), candidates, counts)
                mined = list(islice(passing, start, start + lacking))
            counts.rows += 1
            counts.given += len(given)
            counts.mined += len(mined)
            counts.without += not (given or mined)
            yield [*given.values(), *(self.pool.passages[number] for number in mined)]

    def _given(self, row: Row, counts: Counts) -> dict[int, str]:
        """Return the negatives that a row came with, by their number in the pool."""
        answers = self.pool.answers(row.query)
        given: dict[int, str] = {}
        for text in row.negatives:
            number = self.pool.number(text)
            if number in answers or number in given:
                counts.contradictory += 1
            else:
                given[number] = text
        return given

    def _candidates(self, row: Row, scores: Sequence[Scores], counts: Counts) -> Iterator[int]:
        """Yield what keeps the margin, best first, from each scorer in turn."""
        positives = [self.pool.number(text) for text in row.positives]
        rankings = [
            rank(each, positives, margin=self.settings.margin, depth=self.settings.depth)
            for each in scores
        ]
        counts.above_margin += sum(ranking.above for ranking in rankings)
        in_turn = chain.from_iterable(zip_longest(*(ranking.passages for ranking in rankings)))
        return (number for number in in_turn if number is not None)

    def _passing(
        self, file: str, row: Row, seen: set[int], candidates: Iterator[int], counts: Counts
    ) -> Iterator[int]:
        """Yield the candidates that neither the text nor the group tells to be answers."""
        answers = self.pool.answers(row.query)
        groups = self.pool.groups(file, row)
        for number in candidates:
            if number in seen:
                continue
            seen.add(number)
            if number in answers:
                counts.same_text += 1
            elif not groups.isdisjoint(self.pool.groups_of(number)):
                counts.same_group += 1
            else:
                yield number
