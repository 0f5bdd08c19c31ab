"""Where rows come from, as a user names it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.tasks import check_tasks

_SETTING = re.compile(r"(.*):([a-z_]+)=([^:]*)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One source of training rows.

    Attributes
    ----------
    path
        A file, a folder (all its data files, at any depth), a glob pattern, or a
        hub dataset, ``owner/name``. A folder whose ``README.md`` opens with a
        block of YAML is a copy of a hub dataset and is read like one.
    weight
        This source's share of the rows drawn, relative to the other sources'.
    limit
        The most rows taken from it, spread over its files.
    split
        Which split of a hub dataset is read.
    tasks
        The tasks of Information Compression that its rows may serve; by default
        all that their shape admits. See `autoreg_trainers.data.tasks`.
    subset
        Which configuration of a hub dataset is read; by default its default.
    repeat
        Whether its rows may be drawn more than once to reach its share.
    min_score
        For rows of two sentences and a score: from which score on they say the
        same. The default is for scores from 0 to 5.
    """

    path: str
    weight: float = 1.0
    limit: int | None = None
    split: str = "train"
    tasks: tuple[str, ...] = ()
    subset: str | None = None
    repeat: bool = False
    min_score: float = 4.0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        wrong = [
            name
            for name, kind in _KINDS.items()
            if not isinstance(value := getattr(self, name), kind)
            or (isinstance(value, bool) and name != "repeat")
        ]
        if wrong:
            raise DataError(f"source {self.path!r}: {wrong[0]} is {getattr(self, wrong[0])!r}")
        if not self.path:
            raise DataError("a source's path is empty")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise DataError(f"source {self.path}: weight is {self.weight}; it must be above 0")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"source {self.path}: limit is {self.limit}; it must be 1 or more")
        check_tasks(self.tasks, f"source {self.path}: ")

    @classmethod
    def parse(cls, value: str | Mapping[str, Any] | Source) -> Source:
        """Read a source from the command line or from YAML.

        Parameters
        ----------
        value
            ``path[:key=value...]``, such as ``nli.jsonl:weight=2:tasks=reconstruct``
            (several tasks are joined by ``,`` or ``+``), or a mapping with the same
            keys, or a source.

        Raises
        ------
        DataError
            A key is not known, or a value is not of its kind.
        """
        if isinstance(value, Source):
            return value
        if isinstance(value, str):
            settings: dict[str, Any] = {}
            while match := _SETTING.fullmatch(value):
                value, key, text = match.groups()
                settings[key] = _from_text(key, text, value)
            return cls._of({"path": value, **settings})
        if isinstance(value, Mapping):
            return cls._of(value)
        raise DataError(f"a source is {value!r}; it must be a path or a mapping with a path")

    @classmethod
    def _of(cls, settings: Mapping[str, Any]) -> Source:
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := [str(key) for key in settings if key not in known]:
            raise DataError(
                f"source {settings.get('path')}: {unknown[0]!r} is not known; "
                f"there are {', '.join(sorted(known))}"
            )
        if "path" not in settings:
            raise DataError(f"the source {dict(settings)} has no path")
        given = dict(settings)
        tasks = given.get("tasks", ())
        given["tasks"] = (tasks,) if isinstance(tasks, str) else _as_tuple(tasks)
        return cls(**given)


_KINDS: dict[str, Any] = {
    "path": str,
    "weight": (int, float),
    "limit": (int, type(None)),
    "split": str,
    "tasks": tuple,
    "subset": (str, type(None)),
    "repeat": bool,
    "min_score": (int, float),
}


def parsed(sources: str | Source | Iterable[str | Mapping[str, Any] | Source]) -> list[Source]:
    """Return sources, however they were given; DataError if there is none."""
    if isinstance(sources, (str, Source)):
        sources = [sources]
    found = [Source.parse(source) for source in sources]
    if not found:
        raise DataError("no source of training data is given")
    return found


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _from_text(key: str, text: str, path: str) -> Any:
    """Turn the text of a setting into its kind; unknown keys are left for the caller."""
    try:
        if key in ("weight", "min_score"):
            return float(text)
        if key == "limit":
            return int(text)
        if key == "repeat":
            return {"true": True, "false": False}[text.lower()]
    except (ValueError, KeyError) as error:
        raise DataError(f"source {path}: {key} is {text!r}") from error
    return tuple(re.split("[,+]", text)) if key == "tasks" else text
