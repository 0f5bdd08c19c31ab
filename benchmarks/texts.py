"""Real texts of mixed length for the benchmarks."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARED = DATA / "eval" / "retrieval"

TRIPLET_SOURCES = ("medquad", "wikiqa_train", "nli_triplets", "mediqa2019_qa")
"""Training sets with hard negatives: passages, sentences, short sentences, long passages."""


def mixed_texts(count: int, seed: int = 0) -> list[str]:
    """Return `count` real texts: passages and questions of the shared sets, or Python's topics.

    Where ``../shared`` is missing, the texts are paragraphs of the language
    reference that ships with CPython.
    """
    texts: list[str] = []
    for path in sorted(SHARED.glob("*/*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    if not texts:
        texts = [passage for passages in _topics().values() for passage in passages]
    texts = [text for text in texts if text.strip()]
    random.Random(seed).shuffle(texts)
    while len(texts) < count:
        texts += texts
    return texts[:count]


def triplets(count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Return `count` real triplets of mixed length: query, positive and a hard negative.

    Of each of `TRIPLET_SOURCES` as many as of the others. Where they are
    missing, a query is the name of one of Python's topics, its positive a
    passage of that topic, and its negative one of another.
    """
    random_ = random.Random(seed)
    sources: list[list[tuple[str, str, str]]] = []
    for name in TRIPLET_SOURCES:
        path = DATA / "train" / f"{name}.jsonl.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                records = [json.loads(line) for line in lines]
            sources.append([(r["query"], r["pos"], r["neg"][0]) for r in records if r["neg"]])
    if not sources:
        topics = _topics()
        passages = [(name, passage) for name, found in topics.items() for passage in found]
        random_.shuffle(passages)
        sources.append(
            [
                (name, passage, next(other for topic, other in passages[i:] if topic != name))
                for i, (name, passage) in enumerate(passages[: len(passages) // 2])
            ]
        )
    for source in sources:
        random_.shuffle(source)
    return [sources[i % len(sources)][i // len(sources)] for i in range(count)]


def _topics() -> dict[str, list[str]]:
    """Return the passages of Python's language reference, by topic, of mixed length."""
    from pydoc_data.topics import topics

    passages: dict[str, list[str]] = {}
    for name, topic in topics.items():
        paragraphs = topic.split("\n\n")
        step = 1
        while paragraphs:  # 1, 2, ... 8 paragraphs at a time: lengths vary as passages do
            passages.setdefault(name, []).append("\n\n".join(paragraphs[:step]))
            paragraphs = paragraphs[step:]
            step = step % 8 + 1
    return {name: [text for text in found if text.strip()] for name, found in passages.items()}
