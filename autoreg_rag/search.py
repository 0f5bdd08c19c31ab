"""The command ``python -m autoreg_rag.search``."""

from __future__ import annotations

import math
import os
import textwrap
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoreg_rag import cli
from autoreg_rag.fusion import DEFAULT_ALPHA
from autoreg_rag.scores import DEFAULT_FUSION, DEFAULT_SCORE, Score
from autoreg_rag.stores.names import COLLECTION, DEFAULT_PLACE

if TYPE_CHECKING:
    from autoreg_rag.corpus.records import Hit

CANDIDATES = 50
"""Hits that are reranked if no number is named."""

WIDTH = 96
LINES = 4


def search(
    question: Annotated[list[str], typer.Argument(help="One or more questions.")],
    index: Annotated[
        Path | None, typer.Option(help=f"Folder of the index; by default {DEFAULT_PLACE}.")
    ] = None,
    url: cli.Url = None,
    collection: cli.Collection = COLLECTION,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Hits per question.", min=1)] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE that metadata must have; the same KEY again means either."),
    ] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Find by words too: fuse with BM25.")
    ] = False,
    alpha: Annotated[
        float | None,
        typer.Option(
            help=f"With --hybrid: weight of the cosine; by default {DEFAULT_ALPHA}.", min=0, max=1
        ),
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Rerank by the likelihood of the passages.")
    ] = False,
    score: Annotated[
        Score | None,
        typer.Option(help=f"With --rerank: by which score; by default {DEFAULT_SCORE}."),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(help=f"With --rerank: of how many hits; by default {CANDIDATES}.", min=1),
    ] = None,
    fusion: Annotated[
        float | None,
        typer.Option(
            help=f"With --rerank: weight of the retrieval score; by default {DEFAULT_FUSION}.",
            min=0,
            max=1,
        ),
    ] = None,
    model: cli.Model = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="With --rerank: the most tokens of a batch; by default the device's.", min=1
        ),
    ] = None,
    device: cli.Device = None,
    dtype: cli.Dtype = None,
    as_json: cli.Json = False,
) -> None:
    """Find the passages that answer a question."""
    from autoreg_rag.corpus.readers.encoding import storable
    from autoreg_rag.index.index import Index
    from autoreg_rag.stores import check_url

    if url and index:
        raise typer.BadParameter("--index and --url exclude each other")
    if url:
        check_url(url)
    if alpha is not None and not hybrid:
        raise typer.BadParameter("--alpha needs --hybrid")
    reranking = (score, candidates, fusion, batch_tokens)
    if not rerank and any(option is not None for option in reranking):
        raise typer.BadParameter("--score, --candidates, --fusion and --batch-tokens need --rerank")
    question = [storable(text) for text in question]
    if not all(text.strip() for text in question):
        raise typer.BadParameter("a question is empty")
    conditions = _conditions([storable(pair) for pair in where or []])
    cli.quieten()
    with Index.open(
        url or index or DEFAULT_PLACE,
        model=model,
        api_key=os.environ.get(cli.API_KEY_VARIABLE),
        collection=collection,
        device=device,
        dtype=dtype,
    ) as opened:
        depth = max(top_k, candidates or CANDIDATES) if rerank else top_k
        results = opened.search(
            question,
            depth,
            where=conditions,
            hybrid=hybrid,
            alpha=DEFAULT_ALPHA if alpha is None else alpha,
        )
        if rerank:
            from autoreg_rag.rerank import Reranker

            reranker = Reranker(
                opened.model,
                score=score or DEFAULT_SCORE,
                token_budget=batch_tokens,
                fusion=DEFAULT_FUSION if fusion is None else fusion,
            )
            pairs = zip(question, results, strict=True)
            results = [reranker.rerank(text, hits, top_n=top_k) for text, hits in pairs]
    if as_json:
        answers = zip(question, results, strict=True)
        cli.print_json(
            [{"question": text, "hits": [_as_dict(hit) for hit in hits]} for text, hits in answers]
        )
        return
    for text, hits in zip(question, results, strict=True):
        typer.echo(f"? {text}")
        for rank, hit in enumerate(hits, 1):
            typer.echo(_as_text(rank, hit))
        if not hits:
            typer.echo("nothing found")


def _conditions(pairs: list[str]) -> dict[str, list[Any]] | None:
    """Parse KEY=VALUE pairs; a value that reads as a number or a truth value also is one."""
    conditions: dict[str, list[Any]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"--where {pair!r} is not KEY=VALUE")
        conditions.setdefault(key, []).extend(_readings(value))
    return conditions or None


def _readings(value: str) -> list[Any]:
    readings: list[Any] = [value]
    for kind in (int, float):
        try:
            number = kind(value)
            is_finite = math.isfinite(number)
        except (ValueError, OverflowError):
            continue
        if is_finite:  # no index holds another
            readings.append(number)
        break
    if value in ("true", "false"):
        readings.append(value == "true")
    return readings


def _as_dict(hit: Hit) -> dict[str, Any]:
    return {
        "score": hit.score,
        "scores": dict(hit.scores),
        "id": hit.chunk.id,
        "source": hit.chunk.source,
        "start": hit.chunk.start,
        "end": hit.chunk.end,
        "metadata": dict(hit.chunk.metadata),
        "text": hit.chunk.text,
    }


def _as_text(rank: int, hit: Hit) -> str:
    chunk = hit.chunk
    # A record's own field of this name may hold anything.
    page = f", page {chunk.metadata['page']}" if "page" in chunk.metadata else ""
    lines = textwrap.wrap(_printable(chunk.text), WIDTH, max_lines=LINES, placeholder=" ...")
    place = f"{_printable(chunk.source + page)} [{chunk.start}:{chunk.end}]"
    head = f"{rank:2d}. {hit.score:.4f}  {place}"
    return "\n".join([head, *(f"    {line}" for line in lines)])


def _printable(text: str) -> str:
    """Return a text without what would command the terminal."""
    return "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)


if __name__ == "__main__":
    cli.main(search)
