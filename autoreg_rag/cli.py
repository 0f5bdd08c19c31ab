"""What the commands share: options, errors, and how a model is loaded."""

from __future__ import annotations

import codecs
import functools
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoreg_rag.errors import AutoRegError, CorpusError

if TYPE_CHECKING:
    from autoreg_rag.corpus import Chunker
    from autoreg_rag.model import AutoRegModel

Model = Annotated[
    str | None,
    typer.Option("--model", help="Model: a folder, a GGUF file or a hub id.", metavar="NAME"),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default the best there is.")
]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or float16; by default the device's fastest."),
]
BatchTokens = Annotated[
    int | None,
    typer.Option(help="The most tokens of a batch; by default the device's.", min=1),
]
Collection = Annotated[str, typer.Option(help="The Qdrant collection.")]
Url = Annotated[
    str | None,
    typer.Option(help="A Qdrant server's URL; its API key is read from QDRANT_API_KEY."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

API_KEY_VARIABLE = "QDRANT_API_KEY"


def main(command: Callable[..., None]) -> None:
    """Run a command: parse its options, and turn errors into one line and a status.

    The status is that of `errors_as_status`, or 2 for wrong options.
    """

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a letter that it lacks is no reason to end
                stream.reconfigure(errors="replace")
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        with errors_as_status():
            command(*args, **kwargs)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guarded)
    app()


@contextmanager
def errors_as_status(
    memory_hint: str = "lower --batch-tokens where the command has it",
) -> Iterator[None]:
    """End the process where an error is the user's to mend, with one line on standard error.

    Status 1 stands for such an error, 130 for an interruption from the keyboard.
    Other errors pass with their tracebacks.

    Parameters
    ----------
    memory_hint
        What to do when memory ran out.
    """
    try:
        yield
    except AutoRegError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        typer.echo(f"error: out of memory; {memory_hint}, or choose another --device", err=True)
        raise SystemExit(1) from error
    except BrokenPipeError as error:  # the reader has seen enough
        _silence_output()
        raise SystemExit(1) from error
    except OSError as error:
        _silence_output()
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        typer.echo("interrupted", err=True)
        raise SystemExit(130) from error


def _silence_output() -> None:
    """Let what could not be printed go nowhere, so that Python does not fail on it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out; torch says so by a RuntimeError."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


def print_json(content: Any) -> None:
    """Print one JSON value on standard output, exactly, whatever letters that can show."""
    shows_all = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    typer.echo(json.dumps(content, ensure_ascii=not shows_all, indent=2))


def shows_progress() -> bool:
    """Whether somebody watches standard error; in a log, bars would bury the messages."""
    return sys.stderr is not None and sys.stderr.isatty()


def quieten() -> None:
    """Keep the progress bars of the libraries that load a model off the terminal."""
    import transformers

    transformers.utils.logging.disable_progress_bar()


def chunker_of(model: AutoRegModel, size: int, overlap: int) -> Chunker:
    """Return what cuts texts for a model.

    Raises
    ------
    CorpusError
        The chunks would be longer than what the model reads.
    """
    from autoreg_rag.corpus import Chunker

    if size > (limit := model.encoder.truncation.limit):
        raise CorpusError(f"--chunk-size {size} is more than the model's {limit} tokens")
    return Chunker(model.backbone.tokenizer.backend_tokenizer, size, overlap)


def load_model(
    name: str | None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    token_budget: int | None = None,
) -> AutoRegModel:
    """Load a model for a command."""
    from autoreg_rag.model import AutoRegModel

    quieten()
    return AutoRegModel.from_pretrained(name, device=device, dtype=dtype, token_budget=token_budget)
