"""A teacher: other encoders, whose similarities between texts are learnt."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autoreg_rag.evaluate.peer import SentenceTransformerPeer
from autoreg_rag.files import sha256
from autoreg_trainers.blocks import kept_blocks

if TYPE_CHECKING:
    from datasets import Dataset

    from autoreg_rag.backbone import Backbone
    from autoreg_trainers.settings import AlignmentTrainingSettings, ContrastiveSettings

MANIFEST_FILE = "teacher.json"

BLOCK = 1024
"""Texts of one file: what is lost at most when the work is cut off."""

COLUMN = "teacher"
"""Numbers of the vectors of a row's query, positive and negatives."""

BATCH = 128
"""Texts that a teacher's model reads at once."""

_COLUMNS = ["query", "positive", "negatives", "symmetric"]
_BATCH_ROWS = 4096

_HASHED = {".bin", ".json", ".model", ".safetensors", ".txt"}
"""Endings of the files of a model's folder that its vectors depend on."""

_Text = tuple[bool, tuple[int, ...]]
"""Whether it is read as a document, and its ids."""


class Teacher:
    """Sentence-transformers models' vectors of all texts of some rows, worked out once.

    A text's vectors are joined to one of unit length, so that the product of two such is the
    mean of the models' cosines.

    Parameters
    ----------
    names
        Folders, or names that sentence-transformers resolves; at least one.
    folder
        Where the vectors are kept, float16, under the hash of the texts and of each model's
        folder, or its name if it is none, in order.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names = names
        self.folder = folder
        self._table = torch.empty(0)

    def read(self, rows: Dataset, backbone: Backbone) -> Dataset:
        """Take the vectors of all texts, worked out where they are not kept yet.

        Processes that were started together share the work. The teacher reads what the
        rows' ids spell, a query as a query, all else as documents.

        Parameters
        ----------
        rows
            Triplets, as `data.load_triplets` gives them.
        backbone
            Whose tokenizer made them, and on whose device the teacher runs.

        Returns
        -------
        Dataset
            The rows with the column that `vectors` needs.

        Raises
        ------
        BlocksError
            The folder holds vectors of other texts or of other models, or is damaged.
        EvaluationError
            sentence-transformers is not installed.
        ModelError
            It cannot load one of the models.
        """
        numbers: dict[_Text, int] = {}
        places = [
            [numbers.setdefault(text, len(numbers)) for text in _texts(row)]
            for part in rows.select_columns(_COLUMNS).iter(_BATCH_ROWS)
            for row in zip(*(part[name] for name in _COLUMNS), strict=True)
        ]
        texts = list(numbers)

        @cache
        def peers() -> list[SentenceTransformerPeer]:
            device = str(backbone.device)
            return [
                SentenceTransformerPeer(name, device=device, batch_size=BATCH)
                for name in self.names
            ]

        def compute(part: range) -> dict[str, Tensor]:
            return {"vectors": _encode(peers(), backbone, texts[part.start : part.stop])}

        if not (self.folder / MANIFEST_FILE).is_file():
            peers()  # one that cannot be loaded leaves nothing
        self._table = kept_blocks(
            compute,
            len(texts),
            self.folder,
            what="teacher's vectors",
            manifest=MANIFEST_FILE,
            wanted={"teachers": [model_hash(name) for name in self.names], "texts": _hash(texts)},
            block=BLOCK,
        )["vectors"]
        return rows.add_column(COLUMN, places)

    def vectors(
        self, rows: Sequence[Mapping[str, Any]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return the rows' vectors of unit length, float32.

        Returns
        -------
        Tensor, Tensor
            Of the queries, [n, m]; of the positives, then of all negatives, [c, m].
        """
        places = [row[COLUMN] for row in rows]
        documents = [place[1] for place in places]
        documents += [number for place in places for number in place[2:]]
        queries = self._table[[place[0] for place in places]]
        return queries.to(device, torch.float32), self._table[documents].to(device, torch.float32)


def teacher_of(settings: AlignmentTrainingSettings | ContrastiveSettings) -> Teacher | None:
    """Return the teacher that a run is to have, if any."""
    if not settings.teacher:
        return None
    return Teacher(settings.teacher, Path(settings.out) / "teacher")


def _texts(row: tuple[Any, ...]) -> list[_Text]:
    """Return query, positive and negatives, each with whether it is read as a document."""
    query, positive, negatives, symmetric = row
    documents = [(True, tuple(ids)) for ids in (positive, *negatives)]
    return [(bool(symmetric), tuple(query)), *documents]


def _encode(
    peers: Sequence[SentenceTransformerPeer], backbone: Backbone, texts: Sequence[_Text]
) -> Tensor:
    """Return the vectors of some texts, all peers' side by side, float16 [t, m]."""
    decoded = backbone.tokenizer.backend_tokenizer.decode_batch(
        [list(ids) for _, ids in texts], skip_special_tokens=False
    )
    queries = [i for i, (document, _) in enumerate(texts) if not document]
    documents = [i for i, (document, _) in enumerate(texts) if document]
    parts = []
    for peer in peers:
        vectors: dict[int, np.ndarray] = {}
        for mine, encode in ((queries, peer.encode_queries), (documents, peer.encode_documents)):
            if mine:
                vectors |= zip(mine, encode([decoded[i] for i in mine]), strict=True)
        parts.append(np.stack([vectors[i] for i in range(len(texts))]))
    return torch.from_numpy(np.concatenate(parts, axis=1) / math.sqrt(len(parts))).half()


def model_hash(name: str) -> str:
    """Return a hash of a folder's weights and settings, or the name of what is no folder."""
    folder = Path(name)
    digest = hashlib.sha256()
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _HASHED)
    for path in paths:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\0".encode())
    return digest.hexdigest() if paths else name


def _hash(texts: Sequence[_Text]) -> str:
    digest = hashlib.sha256()
    for document, ids in texts:
        digest.update(bytes([document]) + np.array([len(ids), *ids], dtype="<i8").tobytes())
    return digest.hexdigest()
