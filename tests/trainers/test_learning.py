"""What is trained learns: compression and alignment overfit some rows to a perfect ranking."""

import json
from itertools import islice

import numpy as np
import pytest

from autoreg_rag.model import AutoRegModel
from tests.trainers.running import apart, flags, history, short_rows

# With one vector: what the loss trains is what is compared. Of several, whose mean is
# compared, the likelihoods rank perfectly too, but cosines only nearly.
SAME = {"num_compress_tokens": 1, "tuning": "full", "held_back": 0, "batch_size": 20}
SAME |= {"token_budget": 4096, "epochs": 1000, "logging_steps": 20, "save_minutes": 0}
COMPRESSION = {"learning_rate": 3e-3, "max_steps": 120}
ALIGNMENT = {"learning_rate": 1e-2, "neck_learning_rate": 3e-3, "max_steps": 160}
ALIGNMENT |= {"in_batch_negatives": 4}


@pytest.fixture(scope="module")
def rows():
    return list(islice(short_rows(60), 20))


def scores(folder, rows):
    """The cosine of each query with each positive."""
    model = AutoRegModel.from_pretrained(folder, dtype="float32", device="cpu")
    queries = model.encode_queries([row["query"] for row in rows])
    return queries @ model.encode_documents([row["pos"] for row in rows]).T


def test_compression_then_alignment_rank_every_positive_first(place, rows, tiny_folder):
    file = place / "twenty.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ic = flags(model=tiny_folder, sources=file, out="ic", **SAME | COMPRESSION)
    assert apart("ic", *ic, cwd=place) == [0]
    steps = history(place / "ic")
    # The vectors carry something: the decoder does better with them than with nothing.
    assert steps[120]["gain"] > 0.2
    assert steps[1]["gain"] < 0.1
    before = scores(place / "ic" / "model", rows)
    cda = flags(model="ic/model", sources=file, out="cda", **SAME | ALIGNMENT)
    assert apart("cda", *cda, cwd=place) == [0]
    steps = history(place / "cda")
    assert steps[160]["loss"] < 0.6 * steps[1]["loss"]
    after = scores(place / "cda" / "model", rows)
    right = np.arange(len(rows))
    assert (after.argmax(axis=1) == right).all()
    assert (after.argmax(axis=0) == right).all()
    assert not (before.argmax(axis=1) == right).all()
