"""Options of the benchmarks that measure on samples of evaluation sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from autoreg_trainers.probe import Probe


def add_samples(parser: argparse.ArgumentParser, *, documents: int, pairs: int) -> None:
    """Add the folder of sets and the sizes of the samples, with these defaults."""
    parser.add_argument("sets", type=Path, help="folder of retrieval and similarity sets")
    parser.add_argument("--queries", type=int, default=30, help="of each retrieval set")
    parser.add_argument("--documents", type=int, default=documents, help="of each retrieval set")
    parser.add_argument("--pairs", type=int, default=pairs, help="of each similarity set")


def sampled(options: argparse.Namespace) -> Probe:
    """Draw the samples."""
    return Probe(
        options.sets, queries=options.queries, documents=options.documents, pairs=options.pairs
    )
