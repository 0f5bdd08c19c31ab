"""The indexing pipeline: files to documents to chunks to embeddings to a store."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from autoreg_rag.corpus import (
    READER_VERSION,
    Chunker,
    CorpusFile,
    EmptyCorpusError,
    corpus_name,
    file_digest,
    file_state,
    find_files,
    read_documents,
)
from autoreg_rag.corpus.files import corpus_path, shown
from autoreg_rag.corpus.formats import STREAMED, format_of
from autoreg_rag.errors import CorpusError, ReadError
from autoreg_rag.index.block import Block, OpenFile
from autoreg_rag.index.gone import check_gone
from autoreg_rag.index.parts import ScoreParts
from autoreg_rag.index.places import is_index
from autoreg_rag.index.summary import Summary
from autoreg_rag.model import AutoRegModel
from autoreg_rag.stores.base import Store

logger = logging.getLogger(__name__)

BATCHES_PER_BLOCK = 8
"""Batches that are encoded between two commits: enough to sort by length, little to lose."""

_SILENT: dict[str, Any] = {"on_skip": lambda *_: None, "on_error": lambda *_: None}
"""Callbacks of `find_files` for a walk that comes before the one that counts."""


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
    moved
        A corpus that the index knows at another path has moved to the one given.
    allow_empty
        A corpus of which nothing is left is removed from the index.
    score_parts
        Store with each chunk of the store, also of those that are there, the
        parts of rerank scores that do not depend on a question.
    show_progress
        Draw a progress bar on standard error.
    """

    model: AutoRegModel
    store: Store
    chunker: Chunker
    globs: Sequence[str] = ()
    excludes: Sequence[str] = ()
    max_bytes: int = 100_000_000
    moved: bool = False
    allow_empty: bool = False
    score_parts: bool = False
    show_progress: bool = False
    _summary: Summary = field(default_factory=Summary, init=False)
    _parts: ScoreParts | None = field(default=None, init=False)
    _short: set[str] = field(default_factory=set, init=False)

    def run(self, *roots: str | Path) -> Summary:
        """Index folders or files: add, replace, keep and remove what needs it.

        Each root is a corpus by the name of its last part, and is mirrored: what
        the store holds of such a corpus and this run does not find is removed,
        be it that the file is gone or that `globs` and `excludes` leave it out
        now. With another chunker all files are cut and encoded anew. Other
        corpora in the store stay as they are.

        Returns
        -------
        Summary
            What was done. Files that could not be read are in it; what the
            store held of them stays.

        Raises
        ------
        CorpusError
            A root is missing, is an index or holds nothing to index, be it that
            `allow_empty` is not set or that the index does not know it; none of the
            files can be read; two roots have the same name; or the index has a corpus of
            that name from another path and `moved` is not set.
        StoreError
            The store cannot be written.
        """
        self._summary = Summary()
        start = time.monotonic()
        paths = list(dict.fromkeys(Path(root).resolve() for root in roots))
        corpora = {corpus_name(path): path for path in paths}
        if len(corpora) < len(paths):
            raise CorpusError("two of the folders have the same name; rename one of them")
        known = self.store.manifest.corpora
        self._check_names(corpora)
        self._parts = ScoreParts(self.model) if self.score_parts else None
        self._short = _short_files(self.store)
        try:
            for name, root in corpora.items():
                self._index_corpus(name, root, known)
        except CorpusError:  # what was indexed before it is there to be searched
            self.store.optimize()
            raise
        if self._parts is not None:
            size, show = self._block_size, self.show_progress
            self._summary.scored += self._parts.complete(self.store, size, show_progress=show)
        self.store.optimize()
        self._summary.chunks = len(self.store)
        self._summary.seconds = time.monotonic() - start
        if self._summary.failed and not self._summary.files:
            for name in corpora.keys() & self.store.manifest.corpora.keys():
                self._note_corpus(name, known.get(name))
            raise CorpusError(f"no file could be read; the first: {self._summary.failures[0]}")
        return self._summary

    def _check_names(self, corpora: dict[str, Path]) -> None:
        """Refuse a corpus that would take the place of another one of the same name."""
        for name, root in corpora.items():
            path = corpus_path(root)
            other = self.store.manifest.corpora.get(name, path)
            if other != path and not self.moved:
                raise CorpusError(
                    f"the index already holds a corpus called {name!r}, of {shown(other)}: if it "
                    f"has moved to {shown(path)}, say so with --moved; else rename the folder, or "
                    "index into another place with --out"
                )

    def _index_corpus(self, name: str, root: Path, known: Mapping[str, str]) -> None:
        seen: set[str] = set()
        unreadable: list[str] = []
        path = corpus_path(root)
        if self.store.manifest.corpora.get(name) != path:
            self._note_corpus(name, path)
        try:
            self._index_found(name, root, seen, unreadable)
        except CorpusError as error:
            self._note_corpus(name, known.get(name))  # as it was before this run
            if not isinstance(error, EmptyCorpusError):
                raise
            check_gone(error, root, known, allow_empty=self.allow_empty)
        for source in list(self.store.sources()):
            gone = source.startswith(f"{name}/") and source not in seen
            # What cannot be looked at may still be there, and what lies below it.
            if gone and not f"{source}/".startswith(tuple(unreadable)):
                self.store.remove_file(source)
                self._summary.removed += 1
        if not seen:  # comes last, so that a run that is killed can be repeated
            self._note_corpus(name, None)

    def _note_corpus(self, name: str, root: str | None) -> None:
        """Note the path of a corpus, or None that the index has none of this name."""
        corpora = {**self.store.manifest.corpora, name: root}
        kept = {other: path for other, path in corpora.items() if path is not None}
        self.store.write_manifest(replace(self.store.manifest, corpora=kept))

    def _index_found(self, name: str, root: Path, seen: set[str], unreadable: list[str]) -> None:
        """Index the files that are there, and note their sources and what cannot be read."""

        def fail(source: str, error: ReadError) -> None:
            unreadable.append(f"{source.rstrip('/')}/")
            self._fail(error)

        def skip(source: str, reason: str) -> None:
            self._summary.skip(shown(f"{source}: {reason}"))

        def files(**callbacks: Any) -> Iterator[CorpusFile]:
            return find_files(
                root,
                name,
                globs=self.globs,
                excludes=self.excludes,
                is_index=is_index,
                **callbacks,
            )

        total = 0
        if self.show_progress:  # a first walk, for the time left; only the second one reports
            total = sum(file.size for file in files(**_SILENT))
        with tqdm(
            total=total, unit="B", unit_scale=True, desc=name, disable=not self.show_progress
        ) as progress:
            self._index_files(files(on_skip=skip, on_error=fail), seen, progress)

    def _index_files(self, files: Iterator[CorpusFile], seen: set[str], progress: tqdm) -> None:
        size = self._block_size
        block = Block(self.model, self.store, size, self._summary, progress, self._parts)
        for file in files:
            seen.add(file.source)
            open_file = self._open(file)
            if open_file is None:
                progress.update(file.size)
                continue
            try:
                self._read(open_file, block)
            except ReadError as error:
                self._fail(error)
                block.drop(open_file)
            else:
                block.finish(open_file)
        block.flush()

    @property
    def _block_size(self) -> int:
        return max(8, BATCHES_PER_BLOCK * self.model.token_budget // self.chunker.size)

    def _open(self, file: CorpusFile) -> OpenFile | None:
        """Return the file if its chunks must be made, else None."""
        record = self.store.file(file.source)
        is_streamed = format_of(file.source) in STREAMED
        if record is None and not is_streamed and file.size > self.max_bytes:
            # The reader would say so, too, but only after all of it was hashed.
            limit = f"larger than the limit of {self.max_bytes:,} bytes"
            self._fail(ReadError(f"{file.source}: {limit}"))
            return None
        try:
            state = file_state(file)
            digest = file_digest(file, f"readers {READER_VERSION}, {self.chunker.settings}")
        except ReadError as error:
            self._fail(error)
            return None
        is_short = record is not None and record.digest == digest and file.source in self._short
        if record is None or record.digest != digest or is_short:
            return OpenFile(file, digest, state, is_new=record is None, is_short=is_short)
        self._summary.unchanged += 1
        if record.failed:
            message = f"{file.source}: {record.failed} of its records could not be read"
            self._fail(ReadError(message), record.failed)
        return None

    def _read(self, open_file: OpenFile, block: Block) -> None:
        """Bring the chunks of a file into the block; ReadError if that cannot be done."""

        def fail(error: ReadError) -> None:
            open_file.failed += 1
            self._fail(error)

        file = open_file.file
        for document in read_documents(file, max_bytes=self.max_bytes, on_error=fail):
            for chunk in self.chunker.chunks(document, open_file.digest):
                block.add(open_file, chunk)
        if file_state(file) != open_file.state:
            raise ReadError(f"{file.source}: changed while it was read; run again")

    def _fail(self, error: ReadError, count: int = 1) -> None:
        message = shown(error)
        logger.warning("%s", message)
        self._summary.fail(message, count)


def _short_files(store: Store) -> set[str]:
    """Return the files that have a record, but not all chunks: other programs deleted some."""
    wanted = {record.source: record.chunks for record in store.files()}
    if sum(wanted.values()) == len(store):
        return set()
    found = Counter(chunk.source for chunk in store.chunks())
    return {source for source, count in wanted.items() if found[source] < count}
