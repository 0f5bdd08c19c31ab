from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data" / "eval"


class WordVectors:
    """A deterministic encoder: the sum of one random vector per word.

    Queries get a vector of their own on top, so that a mix-up of the roles
    shows.
    """

    dimension = 32

    def __init__(self, name: str = "word vectors") -> None:
        self.name = name

    def fingerprint(self) -> str:
        return "0123abcd"

    def encode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        return self._encode(texts, "a question")

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> np.ndarray:
        return self._encode(texts, "a document")

    def _encode(self, texts: Sequence[str], role: str) -> np.ndarray:
        sums = [
            sum(map(self._vector, re.findall(r"\w+", text.lower())), 2 * self._vector(role))
            for text in texts
        ]
        vectors = np.array(sums, dtype=np.float32).reshape(len(texts), self.dimension)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _vector(self, word: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.dimension)


@pytest.fixture
def encoder() -> WordVectors:
    return WordVectors()


@pytest.fixture
def shared_sets() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no evaluation sets at {SHARED}")
    return SHARED


CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "Cats sleep most of the day."},
    {"_id": "d2", "title": "", "text": "Dogs bark at strangers."},
    {"_id": "d3", "text": "A garden needs rain and sun."},
    {"_id": "d4", "title": "Rain", "text": "Rain falls from clouds."},
]
QUERIES = [
    {"_id": "q1", "text": "Which animals sleep all day?"},
    {"_id": "q2", "text": "What do dogs do when strangers come?"},
    {"_id": "q3", "text": "Where does rain come from?"},
    {"_id": "q4", "text": "A question nobody judged"},
]
QRELS = [("q1", "d1", 1), ("q2", "d2", 2), ("q2", "d1", 0), ("q3", "d4", 1), ("q3", "d3", 1)]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def write_retrieval_folder(
    folder: Path,
    *,
    corpus: list[dict] = CORPUS,
    queries: list[dict] = QUERIES,
    qrels: list[tuple] = QRELS,
    qrels_name: str = "qrels.tsv",
    ending: str = "",
) -> Path:
    write(folder / f"corpus.jsonl{ending}", "".join(json.dumps(d) + "\n" for d in corpus))
    write(folder / f"queries.jsonl{ending}", "".join(json.dumps(q) + "\n" for q in queries))
    rows = [("query-id", "corpus-id", "score"), *qrels]
    lines = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    write(folder / f"{qrels_name}{ending}", lines)
    return folder


@pytest.fixture
def retrieval_folder() -> Callable[..., Path]:
    return write_retrieval_folder


PAIRS = [
    (5.0, "A cat sleeps.", "The cat is sleeping."),
    (0.5, "A cat sleeps.", "Rain falls from clouds."),
    (4.0, 'He said "yes', "He said yes to her"),
    (2.0, "Dogs bark.", "A dog eats."),
    (2.0, "The sun is out.", "It rains on the sun."),
]


@pytest.fixture
def sts_file() -> Callable[..., Path]:
    def make(path: Path, pairs: list[tuple] = PAIRS) -> Path:
        rows = [("score", "sentence1", "sentence2"), *pairs]
        write(path, "".join("\t".join(map(str, row)) + "\n" for row in rows))
        return path

    return make
