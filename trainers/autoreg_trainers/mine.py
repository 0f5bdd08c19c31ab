"""The command ``python -m autoreg_trainers.mine``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from autoreg_rag import cli
from autoreg_trainers.mining.counts import Counts
from autoreg_trainers.mining.settings import Method, MiningError, Scope, Settings

DEFAULTS = Settings()


def mine(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Files of rows with query, pos and perhaps neg, group and source: JSON lines, "
            "plain or gzipped, or Parquet. Or folders that hold such at any depth.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the same rows with their negatives, a .jsonl.gz file for each file. "
            "What it holds of an earlier run with the same settings is kept.",
        ),
    ],
    by: Annotated[
        Method,
        typer.Option(
            help="What ranks the candidates: words, the model's vectors, or each in turn."
        ),
    ] = DEFAULTS.by,
    negatives: Annotated[
        int, typer.Option(help="Negatives per row, those it came with included.")
    ] = DEFAULTS.negatives,
    margin: Annotated[
        float,
        typer.Option(help="A candidate may score this share of what the row's positive scores."),
    ] = DEFAULTS.margin,
    depth: Annotated[
        int,
        typer.Option(help="Candidates to look at per row: the best that keep the margin."),
    ] = DEFAULTS.depth,
    skip_top: Annotated[
        int, typer.Option(help="Pass over this many of the best that could be taken.")
    ] = DEFAULTS.skip_top,
    pool: Annotated[
        Scope, typer.Option(help="Where candidates come from: the row's own file, or all files.")
    ] = DEFAULTS.pool,
    max_group: Annotated[
        int | None,
        typer.Option(
            help="Take a group of more queries than this for a topic, whose rows may be negatives "
            "of each other. By default rows of one group never are.",
        ),
    ] = DEFAULTS.max_group,
    strict: Annotated[
        bool, typer.Option("--strict", help="End at a bad row instead of leaving it out.")
    ] = False,
    model: cli.Model = None,
    device: cli.Device = None,
    dtype: cli.Dtype = None,
    batch_tokens: cli.BatchTokens = None,
    as_json: cli.Json = False,
) -> None:
    """Find hard negatives: passages that rank close below a row's positive, and are none."""
    settings = Settings(by, negatives, margin, skip_top, depth, pool, max_group)
    if model is not None and by == "bm25":
        raise MiningError("--model is given, but --by bm25 ranks by words; add --by model or both")
    # These take seconds to load, and --help needs none of them.
    from autoreg_trainers.mining.job import Job
    from autoreg_trainers.mining.reading import read_files

    # All rows are read first, so that what is wrong shows before hours of encoding.
    files, bad = read_files(paths, out, strict=strict)
    ranker = None
    if by != "bm25":
        ranker = cli.load_model(model, device=device, dtype=dtype, token_budget=batch_tokens)
    bars = sys.stderr.isatty()
    counts, kept = Job(files, out, settings, model=ranker, show_progress=bars).run()
    total = Counts()
    for each in counts.values():
        total += each
    if as_json:
        by_file = {name: each.as_dict() for name, each in counts.items()}
        cli.print_json({**total.as_dict(), "bad": bad, "kept": kept, "files": by_file})
        return
    typer.echo(f"files:     {len(counts)} in {out} ({len(kept)} kept from an earlier run)")
    for line in total.lines():
        typer.echo(line)
    typer.echo(f"bad rows:  {bad}")


if __name__ == "__main__":
    cli.main(mine)
