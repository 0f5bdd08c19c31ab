"""The indexing pipeline: files to documents to chunks to embeddings to a store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from autoreg_rag.corpus import (
    READER_VERSION,
    Chunk,
    Chunker,
    CorpusFile,
    corpus_name,
    file_digest,
    find_files,
    read_documents,
)
from autoreg_rag.errors import CorpusError, ReadError
from autoreg_rag.index.summary import Summary
from autoreg_rag.model import AutoRegModel
from autoreg_rag.stores.base import FileRecord, Store

logger = logging.getLogger(__name__)

BATCHES_PER_BLOCK = 8
"""Batches that are encoded between two commits: enough to sort by length, little to lose."""

_SILENT: dict[str, Any] = {"on_skip": lambda *_: None, "on_error": lambda *_: None}
"""Callbacks of `find_files` for a walk that comes before the one that counts."""


@dataclass
class _OpenFile:
    """A file between its first chunk and its record."""

    file: CorpusFile
    digest: str
    is_new: bool
    chunks: int = 0
    counted_bytes: int = 0


@dataclass
class Indexer:
    """Brings a store up to date with a corpus.

    Files stream through: at any time only one block of chunks is in memory.
    A file's record is written after its last chunk, so a run that is killed is
    continued by the next one, chunk by chunk.

    Attributes
    ----------
    model
        Encodes the chunks, under I_self.
    store
        Opened for writing; made by the same model.
    chunker
        Cuts the documents.
    globs, excludes
        See `find_files`.
    max_bytes
        See `read_documents`.
    show_progress
        Draw a progress bar on standard error.
    """

    model: AutoRegModel
    store: Store
    chunker: Chunker
    globs: Sequence[str] = ()
    excludes: Sequence[str] = ()
    max_bytes: int = 100_000_000
    show_progress: bool = False
    _summary: Summary = field(default_factory=Summary, init=False)

    def run(self, *roots: str | Path) -> Summary:
        """Index folders or files: add, replace, keep and remove what needs it.

        Each root is a corpus by the name of its last part. Files that the store
        knows of such a corpus and that are gone are removed; other corpora in
        the store stay as they are.

        Returns
        -------
        Summary
            What was done. Files that could not be read are in it; what the
            store held of them stays.

        Raises
        ------
        CorpusError
            A root is missing or holds nothing to index, none of the files can
            be read, or two roots have the same name.
        StoreError
            The store cannot be written.
        """
        self._summary = Summary()
        start = time.monotonic()
        corpora = {corpus_name(Path(root)): Path(root).resolve() for root in roots}
        if len(corpora) < len(roots):
            raise CorpusError("two of the folders have the same name; index them separately")
        self._check_names(corpora)
        try:
            for name, root in corpora.items():
                self._index_corpus(name, root)
        finally:
            self.store.optimize()
        self._summary.chunks = len(self.store)
        self._summary.seconds = time.monotonic() - start
        if self._summary.failed and not self._summary.files:
            raise CorpusError(f"no file could be read; the first: {self._summary.failures[0]}")
        return self._summary

    def _check_names(self, corpora: dict[str, Path]) -> None:
        """Refuse a second corpus of the same name, unless the first one moved."""
        known = dict(self.store.manifest.corpora)
        for name, root in corpora.items():
            other = known.get(name, str(root))
            if other != str(root) and Path(other).exists():
                raise CorpusError(
                    f"the index already holds a corpus called {name!r}, of {other}; "
                    "rename the folder or index into another place with --out"
                )
            known[name] = str(root)
        if known != dict(self.store.manifest.corpora):
            self.store.write_manifest(replace(self.store.manifest, corpora=known))

    def _index_corpus(self, name: str, root: Path) -> None:
        seen: set[str] = set()
        unreadable: list[str] = []

        def fail(source: str, error: ReadError) -> None:
            unreadable.append(source)
            self._fail(error)

        def skip(source: str, reason: str) -> None:
            self._summary.skip(f"{source}: {reason}")

        def files(**callbacks: Any) -> Iterator[CorpusFile]:
            return find_files(root, name, globs=self.globs, excludes=self.excludes, **callbacks)

        total = 0
        if self.show_progress:  # a first walk, for the time left; only the second one reports
            total = sum(file.size for file in files(**_SILENT))
        with tqdm(
            total=total, unit="B", unit_scale=True, desc=name, disable=not self.show_progress
        ) as progress:
            self._index_files(files(on_skip=skip, on_error=fail), seen, progress)
        for source in list(self.store.sources()):
            gone = source.startswith(f"{name}/") and source not in seen
            # What lies below a folder that cannot be listed may still be there.
            if gone and not source.startswith(tuple(unreadable)):
                self.store.remove_file(source)
                self._summary.removed += 1

    def _index_files(self, files: Iterator[CorpusFile], seen: set[str], progress: tqdm) -> None:
        block: list[tuple[_OpenFile, Chunk]] = []
        finished: list[_OpenFile] = []
        size = max(8, BATCHES_PER_BLOCK * self.model.token_budget // self.chunker.size)
        for file in files:
            seen.add(file.source)
            open_file = self._open(file)
            if open_file is None:
                progress.update(file.size)
                continue
            try:
                for chunk in self._chunks(open_file):
                    block.append((open_file, chunk))
                    if len(block) >= size:
                        self._store_block(block, finished, progress)
            except ReadError as error:
                self._fail(error)
                block = [pair for pair in block if pair[0] is not open_file]
                self.store.discard(file.source, open_file.digest)
                progress.update(file.size - open_file.counted_bytes)
                continue
            finished.append(open_file)
        self._store_block(block, finished, progress)

    def _open(self, file: CorpusFile) -> _OpenFile | None:
        """Return the file if its chunks must be made, else None."""
        try:
            digest = file_digest(file, f"readers {READER_VERSION}, {self.chunker.settings}")
        except ReadError as error:
            self._fail(error)
            return None
        record = self.store.file(file.source)
        if record is not None and record.digest == digest:
            self._summary.unchanged += 1
            return None
        return _OpenFile(file, digest, is_new=record is None)

    def _chunks(self, open_file: _OpenFile) -> Iterator[Chunk]:
        documents = read_documents(open_file.file, max_bytes=self.max_bytes, on_error=self._fail)
        for document in documents:
            for chunk in self.chunker.chunks(document, open_file.digest):
                open_file.chunks += 1
                yield chunk

    def _store_block(
        self,
        block: list[tuple[_OpenFile, Chunk]],
        finished: list[_OpenFile],
        progress: tqdm,
    ) -> None:
        """Encode and store a block of chunks, and close the files that end in it."""
        present = self.store.present([chunk.id for _, chunk in block])
        missing = [(file, chunk) for file, chunk in block if chunk.id not in present]
        vectors = self.model.encode_documents([chunk.text for _, chunk in missing])
        start = 0
        while start < len(missing):
            file = missing[start][0]
            end = next(
                (i for i in range(start, len(missing)) if missing[i][0] is not file), len(missing)
            )
            chunks = [chunk for _, chunk in missing[start:end]]
            self.store.add(chunks, vectors[start:end], file.digest)
            start = end
        self._summary.encoded += len(missing)
        self._summary.resumed += len(present)
        for file, chunk in block:
            # The text's bytes stand for the file's until the file ends.
            step = min(len(chunk.text.encode()), file.file.size - file.counted_bytes)
            file.counted_bytes += step
            progress.update(step)
        for file in finished:
            self.store.finish_file(FileRecord(file.file.source, file.digest, file.chunks))
            self._summary.added += file.is_new
            self._summary.replaced += not file.is_new
            self._summary.empty += not file.chunks
            progress.update(file.file.size - file.counted_bytes)
        block.clear()
        finished.clear()

    def _fail(self, error: ReadError) -> None:
        logger.warning("%s", error)
        self._summary.fail(str(error))
