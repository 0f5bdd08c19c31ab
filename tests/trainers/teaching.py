"""Tiny teachers, and the vectors that they give to rows' texts, straight from their package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer

from autoreg_rag.evaluate.peer import SentenceTransformerPeer
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.teacher import COLUMN, Teacher
from tests.trainers.plain import TEXTS

PROMPTS = {"query": "ask: ", "document": "tell: "}

COLUMNS = ("query", "positive", "negatives", "symmetric", "group")


def make_teacher(folder: Path, base: Path, *, seed: int = 0, head: int = 0, width: int = 5) -> Path:
    """Save a sentence-transformers model of random word vectors with a random layer on top.

    Parameters
    ----------
    folder, base
        Where it is saved; whose tokenizer it has.
    seed, head
        Of the vectors; of the layer.
    width
        Length of what the layer gives.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, StaticEmbedding

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    size = (tokenizer.get_vocab_size(), 7)
    vectors = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    torch.manual_seed(head)
    modules = [StaticEmbedding(tokenizer, embedding_weights=vectors), Dense(7, width)]
    SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save(str(folder))
    return folder


def recording() -> Any:
    """Return a kind of peer that keeps which models it loads and which texts it reads."""

    class Recording(SentenceTransformerPeer):
        loaded: ClassVar[list[str]] = []
        texts: ClassVar[list[tuple[str, str]]] = []

        def __init__(self, model: str, **options: Any) -> None:
            super().__init__(model, **options)
            self.loaded.append(model)

        def encode_queries(self, texts: Any, **options: Any) -> np.ndarray:
            self.texts.extend(("query", text) for text in texts)
            return super().encode_queries(texts, **options)

        def encode_documents(self, texts: Any, **options: Any) -> np.ndarray:
            self.texts.extend(("document", text) for text in texts)
            return super().encode_documents(texts, **options)

    return Recording


def dataset(rows: list[dict[str, Any]]) -> Dataset:
    """Return rows as `load_triplets` gives them."""
    return Dataset.from_list([{name: row[name] for name in COLUMNS} for row in rows])


def taught(
    rows: list[dict[str, Any]], model: AutoRegModel, names: Sequence[Path], folder: Path
) -> tuple[Teacher, list[dict[str, Any]]]:
    """Return the teacher of those names, and the rows that it has read."""
    teacher = Teacher([str(name) for name in names], folder)
    places = teacher.read(dataset(rows), model.backbone)[COLUMN]
    return teacher, [{**row, COLUMN: list(own)} for row, own in zip(rows, places, strict=True)]


def vectors_of(
    rows: list[dict[str, Any]], model: AutoRegModel, name: Path, texts: list[str] = TEXTS
) -> list[list[torch.Tensor]]:
    """Return the vectors of each row's query, positive and negatives, float64 as they are kept."""
    from sentence_transformers import SentenceTransformer

    package = SentenceTransformer(str(name), device="cpu")
    spelled = dict(zip(map(tuple, model.backbone.tokenize(texts)), texts, strict=True))

    def vector(ids: list[int], encode: Any) -> torch.Tensor:
        found = torch.from_numpy(encode(spelled[tuple(ids)])).double()
        return (found / found.norm()).half().double()

    result = []
    for row in rows:
        query = package.encode_document if row["symmetric"] else package.encode_query
        documents = [row["positive"], *row["negatives"]]
        own = [vector(ids, package.encode_document) for ids in documents]
        result.append([vector(row["query"], query), *own])
    return result
