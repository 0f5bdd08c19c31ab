"""Real texts of mixed length for the benchmarks."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval" / "retrieval"


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
        from pydoc_data.topics import topics

        for topic in topics.values():
            paragraphs = topic.split("\n\n")
            step = 1
            while paragraphs:  # 1, 2, ... 8 paragraphs at a time: lengths vary as passages do
                texts.append("\n\n".join(paragraphs[:step]))
                paragraphs = paragraphs[step:]
                step = step % 8 + 1
    texts = [text for text in texts if text.strip()]
    random.Random(seed).shuffle(texts)
    while len(texts) < count:
        texts += texts
    return texts[:count]
