"""Processes for tests that kill them, forked from a server that has imported what they need.

A test run has one such server; a list of its own in each module would leave the last
one's alone.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "autoreg_rag.index.indexer",
        "autoreg_rag.stores.faiss.store",
        "autoreg_rag.stores.qdrant.store",
        "autoreg_trainers.mining.job",
        "autoreg_trainers.training",
        "tensorboard",
        "transformers.models.llama.modeling_llama",
    ]
)


def run_ranks(work: Callable[..., None], *given: Any, count: int) -> None:
    """Run ``work(rank, *given)`` in so many processes; raise what the first to fail raised."""
    torch.multiprocessing.start_processes(work, given, count, start_method="forkserver")
