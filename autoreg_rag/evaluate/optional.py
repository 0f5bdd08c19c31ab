"""Packages that only some uses need."""

from __future__ import annotations

import importlib
from types import ModuleType

from autoreg_rag.errors import EvaluationError


def require(module: str, requirement: str) -> ModuleType:
    """Import `module`, or say which `requirement` to install for it.

    Raises
    ------
    EvaluationError
        It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f"this needs {error.name}, which is not installed: pip install '{requirement}'"
        ) from error
