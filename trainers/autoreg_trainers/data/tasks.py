"""The tasks of Information Compression: which rows serve them, and how they are asked for.

In all of them a context is compressed under an instruction, and the frozen
decoder must generate the target from the vectors alone (Deng et al., EMNLP
2025, section 3.2: question answering, paraphrase, title, continuation,
reconstruction).

=================  ===========================  ===========================  ==============
task               context                      target                       instruction
=================  ===========================  ===========================  ==============
``answer``         query                        positive                     I_next
``definition``     term                         gloss                        I_next
``reconstruct``    text                         the same text                I_self
``paraphrase``     sentence                     one that says the same       I_self
``continue``       first part of a text         the rest                     its own
``title_to_text``  title                        text                         its own
``text_to_title``  text                         title                        its own
``given``          context                      output                       the row's
=================  ===========================  ===========================  ==============

``title`` stands for ``title_to_text`` and ``text_to_title``, half each.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from autoreg_rag.config import AutoRegConfig
from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.records import Record, Shape

CONTINUE = 'The text that follows this: "'
TITLE_TO_TEXT = 'The passage with this title: "'
TEXT_TO_TITLE = 'The title of this passage: "'

Pair = tuple[str, str]
"""Context and target."""

_BOTH_TITLES = ("title_to_text", "text_to_title")

_TITLED = frozenset({"title", "heading"})

_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]\s*|\n+")
_WORD_END = re.compile(r"\s+")

_SHORTEST_PART = 24
"""Characters that each part of a text cut for ``continue`` has at least."""


class Example(NamedTuple):
    """A context, an instruction, and the target to generate from their vectors."""

    context: str
    instruction: str
    target: str


def _answer(record: Record) -> Pair | None:
    is_question = record.shape is Shape.PAIR and not record.symmetric
    return (record.first, record.second) if is_question else None


def _definition(record: Record) -> Pair | None:
    return _answer(record) if record.kind == "definition" else None


def _reconstruct(record: Record) -> Pair | None:
    if record.shape is Shape.GIVEN:
        return None
    text = record.second or record.first
    # Queries too, which are short: every other one where both sides are alike.
    one_in = 2 if record.symmetric else 4
    if record.second and zlib.crc32(text.encode("utf-8", "replace")) % one_in == 0:
        text = record.first
    return text, text


def _paraphrase(record: Record) -> Pair | None:
    return (record.first, record.second) if record.symmetric else None


def _continue(record: Record) -> Pair | None:
    if record.shape is Shape.GIVEN:
        return None
    text = record.second or record.first
    cut = _middle(text)
    return (text[:cut].rstrip(), text[cut:]) if cut else None


def _title_to_text(record: Record) -> Pair | None:
    is_titled = record.shape is Shape.PAIR and record.kind in _TITLED
    return (record.first, record.second) if is_titled else None


def _text_to_title(record: Record) -> Pair | None:
    pair = _title_to_text(record)
    return pair and pair[::-1]


def _given(record: Record) -> Pair | None:
    return (record.first, record.second) if record.shape is Shape.GIVEN else None


_MAKERS: dict[str, Callable[[Record], Pair | None]] = {
    "answer": _answer,
    "reconstruct": _reconstruct,
    "continue": _continue,
    "title_to_text": _title_to_text,
    "text_to_title": _text_to_title,
    "definition": _definition,
    "paraphrase": _paraphrase,
    "given": _given,
}

TASKS = tuple(_MAKERS)
"""The tasks' names."""


def check_tasks(names: Iterable[object], where: str = "") -> None:
    """Raise a DataError, which begins with `where`, if a name is not a task's."""
    for name in names:
        if not isinstance(name, str) or (name not in _MAKERS and name != "title"):
            raise DataError(
                f"{where}there is no task {name!r}; there are {', '.join((*TASKS, 'title'))}"
            )


def task_shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Return each task's share of the rows; their sum is 1, and none is 0.

    Raises
    ------
    DataError
        A task is not known, a weight is negative or no number, or all are 0.
    """
    check_tasks(weights)
    shares = dict.fromkeys(TASKS, 0.0)
    for name, weight in weights.items():
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not (number and math.isfinite(weight) and weight >= 0):
            raise DataError(f"the weight of the task {name} is {weight!r}; it must be 0 or more")
        for part in expanded([name]):
            shares[part] += weight / len(expanded([name]))
    total = sum(shares.values())
    if total <= 0:
        raise DataError("no task has a weight above 0")
    return {name: share / total for name, share in shares.items() if share}


def expanded(names: Iterable[str]) -> list[str]:
    """Return tasks' names with ``title`` replaced by the two tasks that it stands for."""
    return [part for name in names for part in (_BOTH_TITLES if name == "title" else (name,))]


def instructions(config: AutoRegConfig) -> dict[str, str | None]:
    """Return the instruction of each task; None where the row brings its own."""
    return {
        "answer": config.query_instruction,
        "reconstruct": config.document_instruction,
        "continue": CONTINUE,
        "title_to_text": TITLE_TO_TEXT,
        "text_to_title": TEXT_TO_TITLE,
        "definition": config.query_instruction,
        "paraphrase": config.document_instruction,
        "given": None,
    }


def examples(
    record: Record, tasks: Iterable[str], config: AutoRegConfig
) -> Iterator[tuple[str, Example]]:
    """Yield each of the tasks that a record can serve, with the example that it makes."""
    asked = instructions(config)
    for task in tasks:
        if (pair := _MAKERS[task](record)) is not None:
            context, target = pair
            yield task, Example(context, asked[task] or record.instruction, target)


def _middle(text: str) -> int | None:
    """Find the end of a sentence, or of a word, in the middle half of a text, or nothing.

    Of several the one nearest to the middle is taken.
    """
    margin = max(_SHORTEST_PART, len(text) // 4)
    for pattern in (_SENTENCE_END, _WORD_END):
        ends = (match.end() for match in pattern.finditer(text))
        fitting = [end for end in ends if margin <= end <= len(text) - margin]
        if fitting:
            return min(fitting, key=lambda end: abs(end - len(text) / 2))
    return None
