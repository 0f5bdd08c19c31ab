"""Reading passages, and taking sentences from them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any, NamedTuple

from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.files import find
from autoreg_trainers.data.reading import parts
from autoreg_trainers.data.records import Shape, records_of
from autoreg_trainers.data.rows import Report
from autoreg_trainers.data.source import Source
from autoreg_trainers.mining.pool import normalised

logger = logging.getLogger(__name__)

SHORTEST, LONGEST = 7, 42
"""How many words a sentence that is taken has."""

_PARAGRAPH = re.compile(r"\n\s*\n")

# Of English: a full stop, perhaps with closing quotes, and then a capital. Titles and
# initials end no sentence.
_NEXT = re.compile(
    r"""(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\bProf)(?<!\b[A-Z])"""
    r"""([.!?]["”’')\]]*)[ ](?=["“‘'(\[]*[A-Z])"""
)
_WHOLE = re.compile(r""".*[.!?]["”’')\]]*""")


class Passage(NamedTuple):
    """A plain text, and what it comes from."""

    text: str
    source: str


class Sentence(NamedTuple):
    """A sentence, its words parted by single spaces, and the passage that it stands in."""

    text: str
    passage: Passage


def read_passages(paths: Iterable[str]) -> tuple[list[Passage], int]:
    """Read all rows with ``text``, and count those that cannot be understood.

    Bad rows are left out with a warning, and so are, without one, rows of other
    shapes. What a row does not call its source is called by the file's name.

    Parameters
    ----------
    paths
        Files, folders, patterns or hub datasets; see `Source.path`.

    Returns
    -------
    passages, bad
        The passages, in the order of the files, and how many rows are bad.

    Raises
    ------
    DataError
        A path stands for nothing that can be read, or holds no passage.
    """
    passages: list[Passage] = []
    bad = 0
    for path in paths:
        report = Report()
        content = parts(find(Source(path)))
        for number, (_, label, rows) in enumerate(content):
            for place, value in rows():
                try:
                    passage = _passage(value, label)
                except ValueError as error:
                    report.add_bad(number, place, str(error))
                    continue
                if passage is None:
                    report.other += 1
                else:
                    report.used += 1
                    passages.append(passage)
        for line in report.lines([part.name for part in content]):
            logger.warning("%s", line)
        total = report.used + report.other + report.bad
        if report.bad:
            logger.warning("%s: %d of %d rows are bad, left out", path, report.bad, total)
        if not report.used:
            raise DataError(f"{path}: none of its {total} rows is a passage, with text")
        bad += report.bad
    return passages, bad


def _passage(value: Any, label: str) -> Passage | None:
    """Return a row's passage, or None if it is of another shape; ValueError if it is bad."""
    if isinstance(value, ValueError):
        raise value
    if isinstance(value, dict):
        value = {**value, "title": None}  # no sentence of the passage
    record = next(records_of(value, min_score=0.0))
    if record.shape is not Shape.TEXT:
        return None
    if any("\ud800" <= character <= "\udfff" for character in record.first):
        raise ValueError("holds half of a surrogate pair")  # which tokenizers refuse
    return Passage(record.first, str(value.get("source") or label))


def take(passages: Sequence[Passage], per_text: int, random: Random) -> list[Sentence]:
    """Take some whole sentences of each passage, none of which came before.

    Parameters
    ----------
    passages
        The passages.
    per_text
        The most sentences of a passage.
    random
        Draws them.

    Returns
    -------
    list of Sentence
        Of `SHORTEST` to `LONGEST` words each. No two are equal when `normalised`.
    """
    taken: list[Sentence] = []
    seen: set[str] = set()
    for passage in passages:
        fitting = [sentence for sentence in split(passage.text) if _fits(sentence)]
        random.shuffle(fitting)
        new = {key: text for text in fitting if (key := normalised(text)) not in seen}
        for key, text in islice(new.items(), per_text):
            seen.add(key)
            taken.append(Sentence(text, passage))
    return taken


def split(text: str) -> Iterator[str]:
    """Yield the sentences of a text; what a blank line parts is never one sentence."""
    for paragraph in _PARAGRAPH.split(text):
        yield from _NEXT.sub(r"\1\n", " ".join(paragraph.split())).split("\n")


def _fits(sentence: str) -> bool:
    whole = _WHOLE.fullmatch(sentence) is not None
    return whole and SHORTEST <= len(sentence.split()) <= LONGEST
