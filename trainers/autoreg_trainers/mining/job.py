"""Mining files of rows into a folder, one after the other, from where it was left."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from autoreg_trainers.mining.counts import Counts
from autoreg_trainers.mining.folder import MinedFolder
from autoreg_trainers.mining.miner import Miner
from autoreg_trainers.mining.pool import Pool
from autoreg_trainers.mining.ranking import Scorer, VectorScorer, WordScorer
from autoreg_trainers.mining.row import Row
from autoreg_trainers.mining.settings import Settings

if TYPE_CHECKING:
    from autoreg_rag.model import AutoRegModel

VERSION = 3
"""Of the choices that the code makes; files of another are mined anew."""


@dataclass
class Job:
    """Mines negatives for files of rows.

    Attributes
    ----------
    files
        Rows by the name that their file is to have in the folder. With
        ``settings.pool == "source"`` each file is mined by itself.
    out
        The folder to write to. A file that is there, made of the same rows
        with the same settings, is left as it is.
    settings
        How to choose.
    model
        Ranks the passages, unless words alone do.
    show_progress
        Show bars on standard error.

    Raises
    ------
    ValueError
        There is a model for ``settings.by == "bm25"``, or none for another.
    """

    files: Mapping[str, Sequence[Row]]
    out: Path
    settings: Settings
    model: AutoRegModel | None = None
    show_progress: bool = False

    def __post_init__(self) -> None:
        """Refuse a model that would not be asked, and to ask one that is not there."""
        if (self.model is None) != (self.settings.by == "bm25"):
            raise ValueError("a model is given if, and only if, it is to rank the passages")

    def run(self) -> tuple[dict[str, Counts], list[str]]:
        """Mine all files.

        Returns
        -------
        counts, kept
            What was found, by file; and the files that had been done before.

        Raises
        ------
        MiningError
            The folder cannot be used.
        """
        folder = MinedFolder(self.out)
        counts: dict[str, Counts] = {}
        kept: list[str] = []
        made_by = self._made_by()
        shared: Miner | None = None
        for name, rows in self.files.items():
            if done := folder.done(name, made_by[name]):
                counts[name] = done
                kept.append(name)
                continue
            if self.settings.pool == "all":
                miner = shared = shared or self._miner(self.files)
            else:
                miner = self._miner({name: rows})
            counts[name] = Counts()
            negatives = miner.mine(name, rows, counts[name])
            bar = tqdm(
                negatives, desc=name, total=len(rows), unit="row", disable=not self.show_progress
            )
            mined = (row.with_negatives(texts) for row, texts in zip(rows, bar, strict=True))
            folder.write(name, mined, made_by[name], counts[name])
        return counts, kept

    def _miner(self, files: Mapping[str, Sequence[Row]]) -> Miner:
        pool = Pool(files, max_group=self.settings.max_group)
        scorers: list[Scorer] = []
        if self.settings.by != "model":
            scorers.append(WordScorer(pool.passages))
        if self.model is not None:
            progress = self.show_progress
            scorers.append(VectorScorer(self.model, pool.passages, show_progress=progress))
        return Miner(pool, scorers, self.settings)

    def _made_by(self) -> dict[str, dict[str, Any]]:
        """Return, by file, all that its negatives depend on."""
        digests = {name: _digest(row.fields for row in rows) for name, rows in self.files.items()}
        common = {
            "version": VERSION,
            "settings": dataclasses.asdict(self.settings),
            "model": None if self.model is None else self.model.fingerprint(),
            "pool": _digest(digests.items()) if self.settings.pool == "all" else None,
        }
        return {name: {**common, "rows": digest} for name, digest in digests.items()}


def _digest(items: Iterable[Any]) -> str:
    """Return a hash of things that JSON can hold, and of their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{json.dumps(item, default=str)}\n".encode())
    return digest.hexdigest()
