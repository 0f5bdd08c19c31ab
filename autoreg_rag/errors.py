"""Errors that a user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class AutoRegError(Exception):
    """Something that the user can mend; its message is one line that says how.

    Every command prints the message to standard error, without a traceback,
    and exits with status 1.
    """


class ModelError(AutoRegError):
    """A model cannot be loaded, saved or used as asked."""


class ModelNotFoundError(ModelError):
    """No model is there by the name that is given."""


class CorpusError(AutoRegError):
    """The corpus as a whole cannot be read."""


class ReadError(AutoRegError):
    """One file or one record of the corpus cannot be read; the others can."""


class StoreError(AutoRegError):
    """An index cannot be opened, written or searched."""


class FingerprintError(StoreError):
    """An index was made by another model, or with other settings, than the one at hand."""


class EvaluationError(AutoRegError):
    """An evaluation set is missing or malformed."""


@contextmanager
def as_model_error(what: str) -> Iterator[None]:
    """Turn whatever a library raises for a model that is damaged or does not fit into our error.

    Parameters
    ----------
    what
        What cannot be done, in front of the library's words.

    Raises
    ------
    ModelError
        The block raised an exception, other than for want of memory.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(f"{what}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return what a library's exception says, in one line, for the message of one of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
