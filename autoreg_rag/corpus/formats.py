"""Which files can be read, and as what: told by their names."""

from __future__ import annotations

from enum import Enum
from pathlib import PurePosixPath


class Format(Enum):
    """What a file is read as."""

    PLAIN = "plain text"
    MARKDOWN = "Markdown"
    RST = "reStructuredText"
    CODE = "source code"
    HTML = "HTML"
    PDF = "PDF"
    DOCX = "Word document"
    JSON = "JSON"
    JSONL = "JSON Lines"
    CSV = "CSV"


LANGUAGES: dict[str, tuple[str, ...]] = {
    "asm": (".asm", ".s"),
    "bash": (".sh", ".bash", ".zsh"),
    "batch": (".bat", ".cmd"),
    "c": (".c", ".h"),
    "clojure": (".clj", ".cljs", ".cljc"),
    "cmake": (".cmake",),
    "cpp": (".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"),
    "csharp": (".cs",),
    "css": (".css", ".scss", ".sass", ".less"),
    "cuda": (".cu", ".cuh"),
    "dart": (".dart",),
    "elixir": (".ex", ".exs"),
    "elm": (".elm",),
    "erlang": (".erl", ".hrl"),
    "fortran": (".f", ".f90", ".f95", ".f03"),
    "fsharp": (".fs", ".fsi", ".fsx"),
    "go": (".go",),
    "graphql": (".graphql", ".gql"),
    "groovy": (".groovy", ".gradle"),
    "haskell": (".hs", ".lhs"),
    "ini": (".ini", ".cfg", ".conf", ".properties"),
    "java": (".java",),
    "javascript": (".js", ".cjs", ".mjs", ".jsx"),
    "julia": (".jl",),
    "kotlin": (".kt", ".kts"),
    "latex": (".tex", ".sty", ".bib"),
    "lisp": (".lisp", ".cl", ".el", ".scm", ".rkt"),
    "lua": (".lua",),
    "matlab": (".m",),
    "nim": (".nim",),
    "nix": (".nix",),
    "ocaml": (".ml", ".mli"),
    "pascal": (".pas",),
    "perl": (".pl", ".pm"),
    "php": (".php",),
    "powershell": (".ps1", ".psm1"),
    "protobuf": (".proto",),
    "python": (".py", ".pyi", ".pyx"),
    "r": (".r",),
    "ruby": (".rb", ".rake"),
    "rust": (".rs",),
    "scala": (".scala", ".sc"),
    "solidity": (".sol",),
    "sql": (".sql",),
    "svelte": (".svelte",),
    "swift": (".swift",),
    "terraform": (".tf", ".hcl"),
    "toml": (".toml",),
    "typescript": (".ts", ".cts", ".mts", ".tsx"),
    "verilog": (".v", ".sv"),
    "vhdl": (".vhd", ".vhdl"),
    "vue": (".vue",),
    "xml": (".xml", ".xsd", ".xsl"),
    "yaml": (".yaml", ".yml"),
    "zig": (".zig",),
}
"""Languages of source code, and the suffixes of their files."""

_LANGUAGE_OF = {suffix: language for language, suffixes in LANGUAGES.items() for suffix in suffixes}

_FORMAT_OF = dict.fromkeys(_LANGUAGE_OF, Format.CODE) | {
    ".txt": Format.PLAIN,
    ".text": Format.PLAIN,
    ".log": Format.PLAIN,
    ".org": Format.PLAIN,
    ".adoc": Format.PLAIN,
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".rst": Format.RST,
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".xhtml": Format.HTML,
    ".pdf": Format.PDF,
    ".docx": Format.DOCX,
    ".json": Format.JSON,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
}

STREAMED = {Format.JSONL, Format.CSV}
"""Formats that are read line by line, however large, from gzip too."""


def format_of(name: str) -> Format | None:
    """Tell what the file of this name is read as, or None if its suffix is not known."""
    path = PurePosixPath(name.lower())
    if path.suffix != ".gz":
        return _FORMAT_OF.get(path.suffix)
    inner = _FORMAT_OF.get(path.with_suffix("").suffix)
    return inner if inner in STREAMED else None


def language_of(name: str) -> str | None:
    """Tell the language of the source code in the file of this name; None if it is no code."""
    return _LANGUAGE_OF.get(PurePosixPath(name.lower()).suffix)
