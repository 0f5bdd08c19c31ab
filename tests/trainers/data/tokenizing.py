"""A program that loads rows, and is killed after so many batches of texts.

Run: ``python -m tests.trainers.data.tokenizing BASE FILE BATCHES``
"""

import logging
import os
import signal
import sys

from autoreg_rag.backbone import Backbone
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.data import load_triplets, rows_hash


def die_after(batches: int) -> None:
    """Have the batch of texts after so many kill the process."""
    tokenize = Backbone.tokenize
    calls = 0

    def counted(self: Backbone, texts: list[str]) -> list[list[int]]:
        nonlocal calls
        calls += len(texts) > 100
        if calls > batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return tokenize(self, texts)

    Backbone.tokenize = counted


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    base, data, batches = sys.argv[1:]
    model = AutoRegModel.from_pretrained(base, dtype="float32", device="cpu")
    die_after(int(batches))
    print(rows_hash(load_triplets([data], model.backbone, model.config, seed=1)))
