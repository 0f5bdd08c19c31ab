"""What the examples share: options, corpus and index, a language model by name, printing."""

from __future__ import annotations

import json
import re
import textwrap
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from python_reference import write_reference

from autoreg_rag import cli
from autoreg_rag.corpus import Chunker, check_corpus, corpus_name
from autoreg_rag.errors import AutoRegError, ModelError, first_line
from autoreg_rag.files import expanded
from autoreg_rag.index.indexer import Indexer
from autoreg_rag.index.places import is_index, kept_if_used
from autoreg_rag.model import AutoRegModel
from autoreg_rag.sharing import SharedModel
from autoreg_rag.stores import Manifest, create_store

FOLDER = Path("corpus")
LEAST = 0.4
"""With the default model, passages far from the question stay below, though not all others."""
NOT_FOUND = "The corpus does not hold the answer."
RULES = (
    "Answer the question in one or two sentences, from the numbered passages alone, and name "
    "the number of the passage in brackets. If the passages do not hold the answer, reply: "
    f"{NOT_FOUND}"
)

Question = Annotated[str, typer.Argument(help="What to ask.")]
Corpus = Annotated[
    Path | None,
    typer.Argument(help="Folder or file to ask; by default Python's language reference."),
]
IndexFolder = Annotated[
    Path | None,
    typer.Option(
        "--index",
        help="Folder of the index, by default corpus/NAME-index. It is made, or brought up to "
        "date with the corpus; without one, it is taken as it is.",
    ),
]
Passages = Annotated[int, typer.Option(help="Passages that the answer may rest on.", min=1)]
Candidates = Annotated[int, typer.Option(help="Passages that are reranked.", min=1)]
Least = Annotated[
    float,
    typer.Option(
        help="The least cosine of a passage with the question. With none, the corpus does not "
        "hold the answer."
    ),
]
MaxNewTokens = Annotated[int, typer.Option(help="The longest answer of the base.", min=1)]
LanguageModel = Annotated[
    str | None,
    typer.Option("--llm", help="What answers, package.module:Class; by default the frozen base."),
]
LanguageModelOptions = Annotated[
    str, typer.Option("--llm-options", help="Its arguments, as a JSON object.")
]


def ready_index(question: str, corpus: Path | None, place: Path | None, model: SharedModel) -> Path:
    """Check the question, bring the index up to date with the corpus, and return its folder."""
    if not question.strip():
        raise AutoRegError("the question is empty")
    place = place and expanded(place)  # as it is when the index is opened
    if corpus is None and place is not None:
        if not is_index(place):
            raise AutoRegError(f"{place} is no index; name the corpus that it is to be made from")
        return place
    if corpus is None:
        corpus = FOLDER / "python-reference"
        write_reference(corpus)
    check_corpus(corpus, is_index=is_index)
    folder = place or FOLDER / f"{corpus_name(corpus.resolve())}-index"
    folder.parent.mkdir(parents=True, exist_ok=True)

    def index(loaded: AutoRegModel) -> None:
        chunker = Chunker(loaded.backbone.tokenizer.backend_tokenizer)
        manifest = Manifest(loaded.fingerprint(), loaded.reference, loaded.dimension)
        with kept_if_used(partial(create_store, "faiss", folder, manifest), folder) as store:
            bars = cli.shows_progress()
            summary = Indexer(loaded, store, chunker, show_progress=bars).run(corpus)
        typer.echo("\n".join(summary.lines()), err=True)

    model.use(index)
    return folder


def named(name: str, options: str) -> Any:
    """Return what a callable, named ``package.module:Class``, makes of a JSON object."""
    module, _, attribute = name.partition(":")
    try:
        make = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"--llm {name} cannot be imported as package.module:Class: {first_line(error)}"
        ) from error
    try:
        return make(**json.loads(options))
    except Exception as error:  # whatever the class raises
        raise ModelError(f"--llm {name} cannot be made: {first_line(error)}") from error


def print_answer(answer: str, passages: list[tuple[str, int, int, float, str]]) -> None:
    """Print an answer, its numbered sources, and the passages that it rests on.

    A passage is its file, where it begins and ends there, its score and its text.
    """
    for number, (source, start, end, score, text) in enumerate(passages, 1):
        typer.echo(f"[{number}] {source} [{start}:{end}], score {score:.2f}")
        typer.echo(textwrap.indent(text.strip(), "    ") + "\n")
    # LlamaIndex says so for an empty reply.
    empty = _plain(answer) in ("", "empty response")
    is_missing = not passages or empty or _plain(NOT_FOUND) in _plain(answer)
    typer.echo(f"Answer: {NOT_FOUND if is_missing else answer}")
    if not passages:
        typer.echo("No passage reached the least cosine.")
    for number, (source, start, end, *_) in enumerate(() if is_missing else passages, 1):
        typer.echo(f"Source [{number}]: {source} [{start}:{end}]")


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()
