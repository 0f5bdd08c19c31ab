"""The command ``python -m autoreg_rag.index``."""

from __future__ import annotations

import os
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from autoreg_rag import cli
from autoreg_rag.corpus import (
    DEFAULT_OVERLAP,
    DEFAULT_SIZE,
    SMALLEST_SIZE,
    EmptyCorpusError,
    check_corpus,
)
from autoreg_rag.errors import CorpusError
from autoreg_rag.files import expanded
from autoreg_rag.stores.names import COLLECTION, DEFAULT_PLACE


class StoreKind(StrEnum):
    """Where an index can be kept."""

    FAISS = "faiss"
    QDRANT = "qdrant"


def index(
    corpus: Annotated[list[Path], typer.Argument(help="Folders or files to index.")],
    store: Annotated[StoreKind, typer.Option(help="Kind of the store.")] = StoreKind.FAISS,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder of the index; by default {DEFAULT_PLACE}.")
    ] = None,
    url: cli.Url = None,
    collection: cli.Collection = COLLECTION,
    model: cli.Model = None,
    chunk_size: Annotated[
        int, typer.Option(help="The most tokens of a chunk.", min=SMALLEST_SIZE)
    ] = DEFAULT_SIZE,
    chunk_overlap: Annotated[
        int, typer.Option(help="Tokens that a chunk may repeat.", min=0)
    ] = DEFAULT_OVERLAP,
    glob: Annotated[
        list[str] | None,
        typer.Option(
            help="Take the files that match this pattern (as in a .gitignore) alone; "
            "others are removed from the index."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave out what matches this pattern, and remove it from the index."),
    ] = None,
    max_megabytes: Annotated[
        int, typer.Option(help="Largest file that is read as a whole.", min=1)
    ] = 100,
    faiss_factory: Annotated[
        str | None,
        typer.Option(help="FAISS factory: Flat (exact, the default), HNSW32, IVF256,Flat."),
    ] = None,
    float16: Annotated[
        bool | None, typer.Option("--float16", help="Keep the vectors of a new index in float16.")
    ] = None,
    score_parts: Annotated[
        bool,
        typer.Option(
            "--score-parts",
            help="Also store what rerank scores need of each passage alone, so that a search with "
            "--rerank is faster; an index that is there gets it too.",
        ),
    ] = False,
    batch_tokens: cli.BatchTokens = None,
    device: cli.Device = None,
    dtype: cli.Dtype = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with status 1 if any file could not be read.")
    ] = False,
    moved: Annotated[
        bool, typer.Option("--moved", help="The corpus of this name has moved to this path.")
    ] = False,
    allow_empty: Annotated[
        bool,
        typer.Option(
            "--allow-empty",
            help="A corpus of which nothing is left is removed from the index.",
        ),
    ] = False,
    as_json: cli.Json = False,
) -> None:
    """Index a corpus, or bring an index up to date with it.

    Each folder named is mirrored: unchanged files are skipped, changed ones
    replaced, and files that are gone, or that --glob and --exclude leave out
    now, removed. Another --chunk-size or --chunk-overlap cuts and encodes all
    files anew. A run that was interrupted continues where it stopped.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm

    from autoreg_rag.index.gone import check_gone, known_corpora
    from autoreg_rag.index.places import is_index, kept_if_used
    from autoreg_rag.stores import check_url, create_store, open_store, shown_place
    from autoreg_rag.stores.base import Manifest

    if url and out:
        raise typer.BadParameter("--out and --url exclude each other")
    if url and store is not StoreKind.QDRANT:
        raise typer.BadParameter("--url needs --store qdrant")
    if faiss_factory is not None and store is not StoreKind.FAISS:
        raise typer.BadParameter("--faiss-factory needs --store faiss")
    if chunk_overlap >= chunk_size:
        raise typer.BadParameter("--chunk-overlap must be below --chunk-size")
    if out and out.parts[:1] in (("http:",), ("https:",)):
        raise typer.BadParameter("--out takes a folder; the URL of a Qdrant server goes with --url")
    if url:
        check_url(url)
    place = url or expanded(out or DEFAULT_PLACE)
    api_key = os.environ.get(cli.API_KEY_VARIABLE)
    for root in corpus:
        try:
            check_corpus(root, globs=glob or (), excludes=exclude or (), is_index=is_index)
        except EmptyCorpusError as error:
            opening = partial(open_store, place, api_key=api_key, collection=collection)
            corpora = known_corpora(opening, is_needed=allow_empty)
            check_gone(error, root, corpora, allow_empty=allow_empty)

    # It takes seconds to load, so what can be wrong at once comes first.
    from autoreg_rag.index.indexer import Indexer

    encoder = cli.load_model(model, device=device, dtype=dtype, token_budget=batch_tokens)
    chunker = cli.chunker_of(encoder, chunk_size, chunk_overlap)
    manifest = Manifest(encoder.fingerprint(), encoder.reference, encoder.dimension)
    create = partial(
        create_store,
        store.value,
        place,
        manifest,
        api_key=api_key,
        collection=collection,
        factory=faiss_factory,
        float16=float16,
    )
    with kept_if_used(create, place if isinstance(place, Path) else None) as opened:
        indexer = Indexer(
            encoder,
            opened,
            chunker,
            globs=glob or (),
            excludes=exclude or (),
            max_bytes=max_megabytes * 1_000_000,
            moved=moved,
            allow_empty=allow_empty,
            score_parts=score_parts,
            show_progress=cli.shows_progress(),
        )
        with logging_redirect_tqdm():
            summary = indexer.run(*corpus)
    if as_json:
        cli.print_json({"index": shown_place(place), **summary.as_dict()})
    else:
        typer.echo("\n".join(summary.lines()))
    if strict and summary.failed:
        raise CorpusError(f"{summary.failed} could not be read; the first: {summary.failures[0]}")


if __name__ == "__main__":
    cli.main(index)
