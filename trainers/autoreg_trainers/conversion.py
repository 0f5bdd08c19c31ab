"""Values from a command line or a YAML file, turned into the types that settings have."""

from __future__ import annotations

import math
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def converted(value: Any, kind: Any) -> Any:
    """Return a value as its type wants it.

    Text is read as a number or a truth value where the type asks for one.

    Parameters
    ----------
    value
        Text, number, truth value, None, list or mapping.
    kind
        bool, int, float, str, Path, Any, a Literal, a union, list[...] or
        dict[str, ...].

    Raises
    ------
    ValueError
        The value does not fit; the message says what would.
    """
    if kind is Any:
        return value
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _one_of(value, parts)
    if origin is Literal:
        for choice in parts:
            if type(choice) is type(value) and choice == value:
                return value
        raise ValueError(f"is {value!r}; it must be one of {', '.join(map(str, parts))}")
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"is {value!r}; it must be a list")
        return [converted(item, parts[0]) for item in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"is {value!r}; it must be a mapping of names to values")
        return {str(name): _named(str(name), item, parts[1]) for name, item in value.items()}
    return _SCALARS[kind](value)


def without_none(kind: Any) -> Any:
    """Return T of ``T | None``, and any other type as it is."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    is_union = get_origin(kind) in (Union, UnionType)
    return parts[0] if is_union and len(parts) == 1 else kind


def _one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and NoneType in kinds:
        return None
    problems = []
    for kind in (kind for kind in kinds if kind is not NoneType):
        try:
            return converted(value, kind)
        except ValueError as error:
            problems.append(error)
    raise problems[0]


def _named(name: str, value: Any, kind: Any) -> Any:
    try:
        return converted(value, kind)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in TRUTH:
        return TRUTH[value.lower()]
    raise ValueError(f"is {value!r}; it must be true or false")


def _int(value: Any) -> int:
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return int(value)
        except ValueError:
            pass
    raise ValueError(f"is {value!r}; it must be a whole number")


def _float(value: Any) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError(f"is {value!r}; it must be a number")


def _str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"is {value!r}; it must be text, in quotes where it looks like a number")


_SCALARS: dict[Any, Any] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: lambda value: Path(_str(str(value) if isinstance(value, Path) else value)),
}
