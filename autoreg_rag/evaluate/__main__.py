"""``python -m autoreg_rag.evaluate``: measure a model on retrieval and similarity sets."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from autoreg_rag import cli
from autoreg_rag.corpus import DEFAULT_OVERLAP
from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.beir import RetrievalSet
from autoreg_rag.evaluate.discovery import load_sets
from autoreg_rag.evaluate.encoder import Encoder
from autoreg_rag.evaluate.peer import SentenceTransformerPeer
from autoreg_rag.evaluate.plot import check_plot, draw_results
from autoreg_rag.evaluate.results import Result, markdown, to_json
from autoreg_rag.evaluate.retrieval import Cut, evaluate_retrieval, whole
from autoreg_rag.evaluate.sts import Role, STSSet, evaluate_sts
from autoreg_rag.files import write_whole


def evaluate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Retrieval folders in BEIR layout, .tsv files of sentence pairs, "
            "or folders that hold such at any depth.",
        ),
    ],
    model: cli.Model = None,
    peer: Annotated[
        str | None, typer.Option(help="A sentence-transformers model to set beside it.")
    ] = None,
    bm25: Annotated[
        bool, typer.Option(help="Measure BM25, and each model fused with it, as well.")
    ] = True,
    split: Annotated[
        str, typer.Option(help="Which qrels/SPLIT.tsv to take where there is no qrels.tsv.")
    ] = "test",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Take the first N queries (and all documents) or pairs only."),
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(
            help="Cut documents into chunks of so many tokens, as the indexer does; a document "
            "scores by its best. Without, it is one text, as far as the model reads."
        ),
    ] = None,
    chunk_overlap: Annotated[
        int | None,
        typer.Option(help=f"Tokens that a chunk may repeat; by default {DEFAULT_OVERLAP}."),
    ] = None,
    sts_role: Annotated[
        Role, typer.Option(help="As what both sentences of a pair are embedded.")
    ] = "document",
    device: cli.Device = None,
    dtype: cli.Dtype = None,
    batch_tokens: cli.BatchTokens = None,
    as_json: cli.Json = False,
    out: Annotated[
        Path | None, typer.Option(help="Write to this file instead of standard output.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the results to this file: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Measure a model: retrieval beside BM25, and semantic textual similarity."""
    # All that can be wrong is found before hours of encoding, not after.
    if chunk_overlap is not None and chunk_size is None:
        raise typer.BadParameter("--chunk-overlap needs --chunk-size")
    for option, path in (("--out", out), ("--plot", plot)):
        if path and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
            raise EvaluationError(f"{option} {path}: no file can be written there")
    if plot is not None:
        check_plot(plot)
    sets = [dataset for path in paths for dataset in load_sets(path, split=split, limit=limit)]
    ours = cli.load_model(model, device=device, dtype=dtype, token_budget=batch_tokens)
    cut: Cut = whole
    if chunk_size is not None:
        overlap = DEFAULT_OVERLAP if chunk_overlap is None else chunk_overlap
        cut = cli.chunker_of(ours, chunk_size, overlap).texts
    encoders: list[Encoder] = [ours]
    if peer is not None:
        encoders.append(SentenceTransformerPeer(peer, device=device))
    results = measure(sets, encoders, cut=cut, bm25=bm25, role=sts_role)
    if as_json:
        about = {
            "name": ours.name,
            "fingerprint": ours.fingerprint(),
            "max_length": ours.config.max_length,
            "chunk_size": chunk_size,
        }
        content = {"model": about, **to_json(results)}
        output = json.dumps(content, ensure_ascii=False, indent=2)
    else:
        output = markdown(results)
    if out is not None:
        write_whole(out, f"{output}\n".encode())
    elif as_json:
        cli.print_json(content)
    else:
        typer.echo(output)
    if plot is not None:
        draw_results(results, plot)


def measure(
    sets: Sequence[RetrievalSet | STSSet],
    encoders: Sequence[Encoder],
    *,
    cut: Cut,
    bm25: bool,
    role: Role,
) -> list[Result]:
    """Measure encoders on sets of both kinds, and tell each result as it comes."""
    bars = cli.shows_progress()
    results: list[Result] = []
    for dataset in sets:
        new = (
            evaluate_retrieval(dataset, encoders, cut=cut, bm25=bm25, show_progress=bars)
            if isinstance(dataset, RetrievalSet)
            else evaluate_sts(dataset, encoders, role=role, show_progress=bars)
        )
        for result in new:
            scores = ", ".join(f"{name} {100 * x:.2f}" for name, x in result.metrics.items())
            typer.echo(f"{result.name}: {result.system}: {scores}", err=True)
        results += new
    return results


if __name__ == "__main__":
    cli.main(evaluate)
