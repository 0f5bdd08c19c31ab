"""Vectors that the fusion benchmark keeps are those of the texts that it is given."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fusion.py"


class Lengths:
    name = "lengths"

    def encode_queries(self, texts, *, show_progress=False):
        return np.array([[len(text)] for text in texts], np.float32)

    encode_documents = encode_queries


def test_a_set_of_the_same_name_with_other_texts_is_encoded_anew(tmp_path):
    if not SCRIPT.is_file():
        pytest.skip(f"there is no {SCRIPT}")
    kept = runpy.run_path(str(SCRIPT))["Kept"]
    for documents in ({"a": "one"}, {"a": "three"}, {"a": "one"}):
        dataset = SimpleNamespace(name="set", queries={"q": "who"}, documents=documents)
        encoder = kept(dataset, Lengths(), tmp_path)
        assert encoder.encode_documents([]).tolist() == [[len(documents["a"])]]
    assert len(list(tmp_path.glob("set-*.npz"))) == 2
