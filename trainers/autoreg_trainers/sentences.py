"""The command ``python -m autoreg_trainers.sentences``."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from autoreg_rag import cli
from autoreg_rag.files import write_whole
from autoreg_trainers.sentence_pairs.errors import SentencesError

ENDING = ".jsonl.gz"


def sentences(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Files of rows with text and perhaps source: JSON lines or tables, plain or "
            "gzipped, or Parquet. Or folders that hold such at any depth, or hub datasets.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help=f"File for the rows, {ENDING}, which is not there yet.")
    ],
    rows: Annotated[
        int | None, typer.Option(help="The most rows; by default one for each sentence taken.")
    ] = None,
    per_text: Annotated[int, typer.Option(help="The most sentences to take of a passage.")] = 2,
    seed: Annotated[
        int, typer.Option(help="Of all that is drawn; the same seed gives the same file.")
    ] = 0,
    as_json: cli.Json = False,
) -> None:
    """Make pairs of near-alike sentences, each with two negatives, from plain passages."""
    _check(out, {"rows": rows, "per-text": per_text}, seed)
    # These take seconds to load, and --help needs none of them.
    from autoreg_trainers.sentence_pairs.passages import LONGEST, SHORTEST, read_passages, take
    from autoreg_trainers.sentence_pairs.rows import pairs

    passages, bad = read_passages(paths)
    random = Random(seed)
    taken = take(passages, per_text, random)
    count = len(taken) if rows is None else min(rows, len(taken))
    lines = [json.dumps(row) for row in pairs(taken, count, random)]
    if not lines:
        raise SentencesError(
            f"nothing in {', '.join(paths)} gives a row: that takes two whole sentences of "
            f"{SHORTEST} to {LONGEST} words that share one"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Without a time in its header the file depends on its content only.
        write_whole(out, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
    except OSError as error:
        raise SentencesError(f"--out {out} cannot be written: {error.strerror}") from error
    figures = {"rows": len(lines), "texts": len(passages), "sentences": len(taken), "bad": bad}
    if as_json:
        cli.print_json(figures)
        return
    typer.echo(f"rows:      {len(lines)} in {out}")
    typer.echo(f"sentences: {len(taken)} taken from {len(passages)} texts")
    typer.echo(f"bad rows:  {bad}")


def _check(out: Path, numbers: dict[str, int | None], seed: int) -> None:
    if out.exists():
        raise SentencesError(f"--out {out} is there already; delete it or choose another name")
    if not out.name.endswith(ENDING):
        raise SentencesError(f"--out {out} must end in {ENDING}")
    for option, value in numbers.items():
        if value is not None and value < 1:
            raise SentencesError(f"--{option} is {value}; it must be 1 or more")
    if seed < 0:  # Python's generator would take it for the positive one
        raise SentencesError(f"--seed is {seed}; it must be 0 or more")


if __name__ == "__main__":
    cli.main(sentences)
