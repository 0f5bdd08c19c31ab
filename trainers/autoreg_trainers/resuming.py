"""Whether a run that goes on is the one that was begun."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from autoreg_rag.errors import ModelError
from autoreg_rag.files import write_whole
from autoreg_rag.model import full_name
from autoreg_trainers.arguments import effective, saved
from autoreg_trainers.data import Source, rows_hash

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset

    from autoreg_trainers.settings import TrainingSettings

_FREE = {
    # How long it takes, and what is kept and told of it.
    *("epochs", "max_steps", "max_minutes", "save_steps", "save_minutes", "keep_checkpoints"),
    *("logging_steps", "eval_steps"),
    *("probe", "probe_steps", "probe_queries", "probe_documents", "probe_pairs"),
    # How a step is worked out: the same but for rounding.
    *("device", "dtype", "attention", "compile", "token_budget"),
    # The folder is the one that is looked at, and reference scores are bound to their model.
    *("out", "references", "resume"),
    # It ends a run or changes nothing.
    "strict",
}
"""Settings that change neither what is learned nor from what."""


def check_same_run(settings: TrainingSettings, file: Path) -> None:
    """Refuse to go on with other settings than a run was begun with.

    Parameters
    ----------
    settings
        Those to go on with.
    file
        The run's own. Where one of the two knows a setting that the other does not, a
        version lies between them, and nothing is said of it.

    Raises
    ------
    ModelError
        They would change what is learned, or from what.
    SettingsError
        The file cannot be read.
    """
    begun, now = saved(file), effective(settings)
    differing = [
        _difference(name, begun[name], value)
        for name, value in now.items()
        if name in begun.keys() - _FREE and _resolved(name, begun[name]) != _resolved(name, value)
    ]
    if differing:
        raise ModelError(
            f"{file.parent} holds a run with other settings: {'; '.join(differing)}; "
            "give the old values, or another --out"
        )


def bind_rows(rows: Dataset, file: Path, *, begun: bool) -> None:
    """Note which rows a run trains on, or refuse to go on with others.

    Parameters
    ----------
    rows
        Those that it trains on, in their order.
    file
        Where their hash is kept.
    begun
        Whether the run goes on; one without a file is of an older version, and goes on.

    Raises
    ------
    ModelError
        The run was begun with other rows.
    """
    state, found = PartialState(), rows_hash(rows)
    if not begun:
        if state.is_main_process:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, f"{found}\n".encode())
    elif file.is_file() and file.read_text().strip() != found:
        raise ModelError(
            f"{file.parent} was begun on other rows, and what --sources name has changed since; "
            "bring it back, or give another --out"
        )


def _difference(name: str, begun: Any, now: Any) -> str:
    if isinstance(begun, list) and isinstance(now, list):  # of many sources, perhaps
        common = [item for item in begun if item in now]
        rests = [[item for item in items if item not in common] for items in (begun, now)]
        begun, now = rests if any(rests) else (begun, now)
    return f"{name} was {begun!r} and is now {now!r}"


def _resolved(name: str, value: Any) -> Any:
    """Return a value in which any spelling of a path is the same."""
    if name == "sources" and isinstance(value, list):
        sources = [Source.parse(source) for source in value]
        return [replace(source, path=full_name(source.path)) for source in sources]
    if name == "teacher" and isinstance(value, list):
        return [full_name(teacher) for teacher in value]
    return full_name(value) if name == "model" and value is not None else value
