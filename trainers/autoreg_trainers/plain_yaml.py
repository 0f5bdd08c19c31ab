"""YAML by the core schema of its version 1.2.

PyYAML follows version 1.1, where 1e-5 is text, ``no`` is false, 012 is ten and
1:30 is ninety.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class YAMLError(ValueError):
    """Text is not the YAML that is expected; the message begins with the line."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (how PyYAML does it)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # PyYAML has no types
    """Quotes text that either version would take for something else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # In other quotes PyYAML writes Unicode's line ends bare, and reads them as spaces.
        style = '"' if _LINE_ENDS.search(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$")
_PLAIN = {
    "null": (re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
}
for _name, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load_mapping(text: str) -> list[tuple[Any, Any, int]]:
    """Read a mapping and return its entries: key, value, and line (from 1).

    Raises
    ------
    YAMLError
        The text is not YAML, or holds something else than one mapping.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YAMLError(f"line {line}: {error.reason}") from error
    try:
        node = loader.get_single_node()
        if node is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise YAMLError("line 1: it must hold settings, each as name: value")
        return [
            (_construct(loader, key), _construct(loader, value), key.start_mark.line + 1)
            for key, value in node.value
        ]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YAMLError(f"line {mark.line + 1 if mark else 1}: {error.problem}") from error
    finally:
        loader.dispose()


def _construct(loader: _Loader, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # of a stated type: "!!int abc"
        raise YAMLError(f"line {node.start_mark.line + 1}: {error}") from error


def dump(content: dict[str, Any]) -> str:
    """Write a mapping that holds what JSON can, in its order."""
    text: str = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return text
