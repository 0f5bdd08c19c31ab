"""Settings of a command: a dataclass, filled from a YAML file and from flags."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import difflib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from autoreg_rag import cli
from autoreg_rag.errors import AutoRegError
from autoreg_rag.files import write_whole
from autoreg_trainers import conversion
from autoreg_trainers.plain_yaml import YAMLError, dump, load_mapping

S = TypeVar("S")

METAVARS = {int: "N", float: "X", Path: "PATH"}


class SettingsError(AutoRegError):
    """A file of settings cannot be read, or holds what no setting takes."""


def run(command: Callable[[S], None], settings_class: type[S], description: str) -> None:
    """Run a command with the settings that the command line gives.

    Errors that the user can mend are one line and status 1, wrong options
    status 2, and an interruption from the keyboard 130. Progress and warnings
    go to standard error.

    Parameters
    ----------
    command
        What to run.
    settings_class, description
        See `parse`.
    """
    with cli.errors_as_status("lower --token-budget"):
        # Before all that takes seconds to load: neither --help nor a wrong option needs it.
        settings = parse(settings_class, description)
        _start_logging()
        from tqdm.contrib.logging import logging_redirect_tqdm

        with logging_redirect_tqdm():
            command(settings)


def parse(settings_class: type[S], description: str, argv: Sequence[str] | None = None) -> S:
    """Fill a dataclass from ``--config FILE.yaml`` and from flags, which win.

    Every field is a flag, spelt with dashes or underscores: ``--batch-size 8``.
    A list takes several values, ``--sources a.jsonl b.jsonl``, and a mapping
    several pairs, ``--tasks answer=1 reconstruct=2``; a flag replaces all that
    the file says of its setting. In the file a setting is a key, spelt in
    either way, and items of a list may be mappings where the field's type
    allows it.

    Parameters
    ----------
    settings_class
        A dataclass, which may refuse values itself. Its fields are bool, int, float,
        str, Path, a Literal of texts, such with None, a list, or a dict of names to
        values; the metadata of each has its ``help``.
    description
        What the command does, for ``--help``.
    argv
        The command line; by default the process's.

    Raises
    ------
    SettingsError
        The file cannot be read, has an unknown key, or a value of a wrong type.
    SystemExit
        With status 2 and a message for wrong flags, 0 after ``--help``.
    """
    kinds = get_type_hints(settings_class)
    fields = [field for field in dataclasses.fields(settings_class) if field.init]  # type: ignore[arg-type]
    parser = _parser(fields, kinds, description)
    namespace, rest = parser.parse_known_args(argv)
    given = vars(namespace)
    names = [field.name for field in fields]
    if rest:
        parser.error(f"unknown: {rest[0]}{_hint(rest[0], [_flag(name) for name in names])}")
    file: Path | None = given.pop("config", None)
    values = {} if file is None else _from_file(file, names, kinds)
    for name, value in given.items():
        try:
            values[name] = _from_flag(value, kinds[name])
        except ValueError as error:
            parser.error(f"argument {_flag(name)}: {error}")
    for field in fields:
        if _default(field) is dataclasses.MISSING and field.name not in values:
            parser.error(f"{_flag(field.name)} is needed, here or in --config")
    return settings_class(**values)


def save_effective(settings: Any, path: Path) -> None:
    """Write all settings as YAML, defaults too; ``--config`` reads the file back."""
    write_whole(path, dump(effective(settings)).encode())


def effective(settings: Any) -> dict[str, Any]:
    """Return all settings, defaults too, in the order of their class and as YAML holds them."""
    return {
        field.name: _plain(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if field.init
    }


def saved(path: Path) -> dict[str, Any]:
    """Return what `save_effective` wrote, as it stands there.

    Another version may have written it, with settings that are none by now.

    Raises
    ------
    SettingsError
        The file cannot be read.
    """
    return {str(key): value for key, value, _ in _entries(path, str(path))}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _entries(file: Path, shown: str) -> list[tuple[Any, Any, int]]:
    try:
        return load_mapping(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{shown}: cannot be read ({error})") from error
    except YAMLError as error:
        raise SettingsError(f"{file}, {error}") from error


def _from_file(file: Path, names: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value, line in _entries(file, f"--config {file}"):
        name = str(key).replace("-", "_")
        if name not in names:
            raise SettingsError(
                f"{file}, line {line}: there is no setting {str(key)!r}{_hint(name, names)}"
            )
        if name in values:
            raise SettingsError(f"{file}, line {line}: {key} comes a second time")
        try:
            values[name] = conversion.converted(value, kinds[name])
        except ValueError as error:
            raise SettingsError(f"{file}, line {line}: {key}: {error}") from error
    return values


def _from_flag(value: Any, kind: Any) -> Any:
    if get_origin(conversion.without_none(kind)) is dict:
        pairs = [item.partition("=") for item in value]
        for name, equals, _ in pairs:
            if not (name and equals):
                raise ValueError(f"{name!r} must be NAME=VALUE")
        value = {name: item for name, _, item in pairs}
    return conversion.converted(value, kind)


def _parser(
    fields: Iterable[dataclasses.Field[Any]], kinds: Mapping[str, Any], description: str
) -> argparse.ArgumentParser:
    """Return a parser that keeps what is given only, as texts but for truth values."""
    parser = argparse.ArgumentParser(
        prog=_program(),
        usage="%(prog)s [--config FILE.yaml] [options]",
        description=description,
        formatter_class=_HelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for field in fields:
        _add_flag(parser, field, conversion.without_none(kinds[field.name]))
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="A YAML file of these settings, with underscores or dashes; flags win over it.",
    )
    return parser


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], kind: Any) -> None:
    default = _default(field)
    shown = "" if default is dataclasses.MISSING else _shown(default)
    text = f"{field.metadata['help']} [{shown}]" if shown else field.metadata["help"]
    how: dict[str, Any] = {"help": text.replace("%", "%%")}
    if get_origin(kind) in (list, dict):
        metavar = "NAME=VALUE" if get_origin(kind) is dict else "VALUE"
        how |= {"action": "extend", "nargs": "+", "metavar": metavar}
    elif get_origin(kind) is Literal:
        how["choices"] = get_args(kind)
    elif kind is bool:
        how |= {"nargs": "?", "const": True, "metavar": "yes|no"}
    else:
        how["metavar"] = METAVARS.get(kind, "TEXT")
    parser.add_argument(*_spellings(field.name), dest=field.name, **how)
    if default is True:
        negated = _spellings(f"no_{field.name}")
        parser.add_argument(*negated, dest=field.name, action="store_false", help=how["help"])


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown(default: Any) -> str:
    """Return a default as one would type it, or nothing where help says what None does."""
    if isinstance(default, Mapping):
        return " ".join(f"{name}={value}" for name, value in default.items())
    if isinstance(default, list | tuple):
        return " ".join(map(str, default))
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "" if default is None else str(default)


class _HelpFormatter(argparse.HelpFormatter):
    """Shows each flag once, with dashes."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = [name for name in action.option_strings if "_" not in name]
        return super()._format_action_invocation(shown)


def _program() -> str | None:
    """Return how the process was started, where that was ``python -m``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _spellings(name: str) -> list[str]:
    return sorted({f"--{name}", _flag(name)})


def _hint(unknown: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(unknown, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _start_logging() -> None:
    """Have progress and warnings, each with its time, on standard error."""
    from transformers.utils import logging as transformers_logging

    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Of several processes only the first tells how far it is.
    level = logging.INFO if int(os.environ.get("RANK", "0")) == 0 else logging.WARNING
    for name in ("autoreg_rag", "autoreg_trainers"):
        logging.getLogger(name).setLevel(level)
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()


class _LineFormatter(logging.Formatter):
    """Names the level where it is a warning or worse."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{record.asctime} {level}{record.message}"
