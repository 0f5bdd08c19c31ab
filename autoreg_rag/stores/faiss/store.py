"""An index in a folder: vectors in a flat file, searched by FAISS, the rest in SQLite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoreg_rag.corpus.records import Chunk, Hit
from autoreg_rag.errors import StoreError
from autoreg_rag.stores import ranking
from autoreg_rag.stores.base import FileRecord, Manifest, Store, Vectors, Where
from autoreg_rag.stores.batches import checked_batch, checked_queries
from autoreg_rag.stores.faiss import ann
from autoreg_rag.stores.faiss.layout import STORAGES, Layout
from autoreg_rag.stores.faiss.sidecar import Sidecar, State
from autoreg_rag.stores.faiss.snapshot import Snapshot
from autoreg_rag.stores.faiss.vectors import spans
from autoreg_rag.stores.faults import damaged, explained
from autoreg_rag.stores.folders import new_file, new_folder, write_lock
from autoreg_rag.stores.names import DATABASE, EXACT
from autoreg_rag.stores.where import conditions

_QUERIES_AT_ONCE = 256
_CANDIDATES_AT_ONCE = 2**20
_TOLERATED_DEAD = 0.1
_ATTEMPTS = 5


class FaissStore(Store):
    """A folder with a matrix of vectors and a SQLite database.

    ``index.sqlite`` is the single truth: a row of ``vectors-<generation>.f32``
    (or ``.f16``) counts when the database says so, hence a batch is there or
    not. Rows whose chunk was replaced or removed stay, unseen, until
    `optimize` finds that they are a tenth of all. ``index-<generation>-<rows>.faiss``
    is the approximate index, if one was chosen; rows that it does not cover
    yet are searched exactly, and so are all rows that a filter leaves.

    Scores are computed anew, in float64, for the candidates that FAISS finds.
    Others may search while one process writes; they see what is committed.

    Parameters
    ----------
    folder
        The index, which must be there; `create` makes one.
    writable
        Whether chunks will be added or removed.
    effort
        How hard an approximate index tries, see `ApproximateIndex`.

    Raises
    ------
    StoreError
        If the folder is not an intact index, or another process writes to it.
    """

    def __init__(
        self, folder: Path | str, *, writable: bool = False, effort: int | None = None
    ) -> None:
        self._folder = Path(folder)
        self._effort = effort
        self._snapshot: Snapshot | None = None
        with ExitStack() as opened, explained(self._folder):
            self._lock = write_lock(self._folder) if writable else None
            if self._lock:
                opened.callback(self._lock.release)
            self._sidecar = Sidecar(self._folder / DATABASE, writable)
            opened.callback(self._sidecar.close)
            self.manifest = self._sidecar.manifest
            self._layout = Layout(self._folder, self._sidecar.storage, self.manifest.dimension)
            if writable:
                self._forget_missing_index()
            with self._reading():  # opens all files, and so checks them
                pass
            if writable:
                self._truncate()
                self._layout.sweep(self._sidecar.state())
            self._opened = opened.pop_all()

    @staticmethod
    def create(
        folder: Path | str, manifest: Manifest, *, float16: bool = False, factory: str = EXACT
    ) -> None:
        """Make an empty index; `folder` must not be there yet, or be empty.

        Parameters
        ----------
        float16
            Store vectors in half the space; scores change by less than 0.001.
        factory
            A FAISS factory string for an approximate index, HNSW or IVF;
            ``Flat`` searches exactly.
        """
        ann.check_factory(factory, manifest.dimension)
        with explained(Path(folder)), new_folder(Path(folder), DATABASE) as new:
            Sidecar.create(new / DATABASE, manifest, STORAGES[float16], factory)
            Layout(new, STORAGES[float16], manifest.dimension).matrix(0).path.touch()

    @property
    def float16(self) -> bool:
        """Whether vectors are stored in half precision."""
        return self._sidecar.storage == STORAGES[True]

    @property
    def factory(self) -> str:
        """The FAISS factory string of the approximate index, or ``Flat``."""
        return self._sidecar.state().factory

    def options(self) -> str:
        """Return the options by which the index command makes another index of this kind."""
        return "--out NEW_DIR"

    def use_factory(self, factory: str) -> None:
        """Choose another approximate index, which the next `optimize` builds."""
        if factory != self.factory:
            ann.check_factory(factory, self.manifest.dimension)
            with self._writing():
                self._sidecar.set_factory(factory)
            with explained(self._folder):
                self._layout.sweep(self._sidecar.state())

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        with self._writing():
            self._sidecar.write_manifest(manifest)
        self.manifest = manifest

    def present(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are already stored."""
        return self._sidecar.present(ids)

    def add(self, chunks: Sequence[Chunk], vectors: Vectors, digest: str) -> None:
        """Store chunks of one file; an id that is there already is replaced."""
        chunks, vectors, metadata = checked_batch(chunks, vectors, self.manifest.dimension)
        if chunks:
            with self._writing() as state:
                self._layout.matrix(state.generation).write(state.rows, vectors)
                self._sidecar.insert(state.rows, chunks, metadata, digest)

    def set_metadata(self, chunks: Sequence[Chunk]) -> None:
        """Replace the metadata of chunks that are stored; all else of them stays."""
        with self._writing():
            self._sidecar.set_metadata(chunks)

    def finish_file(self, record: FileRecord) -> None:
        """Mark a file as done, and delete its source's chunks of any other digest."""
        with self._writing():
            self._sidecar.finish_file(record)

    def remove_file(self, source: str) -> None:
        """Delete a file's chunks and its record."""
        with self._writing():
            self._sidecar.remove_file(source)

    def discard(self, source: str, digest: str) -> None:
        """Delete what was added of a file that cannot be finished."""
        with self._writing():
            self._sidecar.discard(source, digest)

    def file(self, source: str) -> FileRecord | None:
        """Return the record of one file, or None if it is not done."""
        return self._sidecar.file(source)

    def files(self) -> Iterator[FileRecord]:
        """Yield the records of all files that are done, in order of source."""
        return self._sidecar.files()

    def sources(self) -> Iterator[str]:
        """Yield the sources that have a record or a chunk, each once, in order."""
        return self._sidecar.sources()

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks, in order of id."""
        return self._sidecar.chunks()

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """Return the chunks of these ids, in the order asked."""
        return self._sidecar.get(ids)

    def revision(self) -> str:
        """Return a text that is another one when chunks came or went since an earlier call."""
        return self._sidecar.revision()

    def search(self, queries: Vectors, k: int, where: Where | None = None) -> list[list[Hit]]:
        """Find for each query the `k` chunks of highest cosine, best first."""
        queries = checked_queries(queries, k, self.manifest.dimension)
        wanted = conditions(where)
        step = max(1, min(_QUERIES_AT_ONCE, _CANDIDATES_AT_ONCE // k))
        hits: list[list[Hit]] = []
        with self._reading() as snapshot:
            allowed = self._sidecar.rows_where(wanted) if wanted else None
            for start in range(0, len(queries), step):
                some = queries[start : start + step]
                hits += self._hits(snapshot.search(some, k, allowed), k)
        return hits

    def optimize(self) -> None:
        """Drop dead rows if they are many, and build the approximate index if one was chosen.

        The approximate index is held in memory while it is built.
        """
        self._check_writable()
        state = self._sidecar.state()
        if state.dead > _TOLERATED_DEAD * state.rows:
            self._compact(state)
            state = self._sidecar.state()
        if state.factory != EXACT and state.indexed < state.rows:
            self._index(state)

    def __len__(self) -> int:
        state = self._sidecar.state()
        return state.rows - state.dead

    def close(self) -> None:
        """Close the files and release the lock."""
        self._snapshot = None
        self._opened.close()

    def _check_writable(self) -> None:
        if not self._lock:
            raise StoreError(f"{self._folder} was opened for reading: open it as writable")

    @contextmanager
    def _writing(self) -> Iterator[State]:
        """Change the database and the matrix together, or neither."""
        self._check_writable()
        with explained(self._folder):
            try:
                with self._sidecar.writing():
                    yield self._sidecar.state()
            except BaseException:
                with suppress(OSError, StoreError):  # only frees space: no row of it counts
                    self._truncate()
                raise

    @contextmanager
    def _reading(self) -> Iterator[Snapshot]:
        """See database and files in one state for a whole block."""
        with explained(self._folder), ExitStack() as transaction:
            for attempt in range(_ATTEMPTS):
                transaction.enter_context(self._sidecar.reading())
                try:
                    snapshot = self._current_snapshot()
                    break
                except FileNotFoundError as error:
                    # The writer may have moved on before the file was opened: look again.
                    transaction.close()
                    if attempt == _ATTEMPTS - 1:
                        raise damaged(self._folder, f"{error.filename} is missing") from error
            yield snapshot

    def _current_snapshot(self) -> Snapshot:
        """Return the last snapshot, or another if the database has changed since."""
        state = self._sidecar.state()
        if self._snapshot and self._snapshot.state == state:
            return self._snapshot
        matrix = self._layout.matrix(state.generation)
        matrix.check(state.rows)
        approximate = None
        if state.indexed:
            path = self._layout.approximate(state.generation, state.indexed)
            approximate = ann.ApproximateIndex.open(path, self._effort)
        mapped = matrix.mapped(0, state.rows)
        self._snapshot = Snapshot(state, mapped, self._alive(state), approximate)
        return self._snapshot

    def _alive(self, state: State) -> NDArray[np.bool_]:
        """Return [rows]: which rows of the matrix have a chunk."""
        alive = np.ones(state.rows, dtype=np.bool_)
        alive[self._sidecar.dead_rows()] = False
        return alive

    def _hits(self, found: list[ranking.Scored[int]], k: int) -> list[list[Hit]]:
        """Return the best `k` of scored rows as hits, equal scores in order of id."""
        ids = self._sidecar.ids({row for scored in found for _, row in scored})
        best = [
            sorted(((score, ids[row]) for score, row in scored), key=lambda x: (-x[0], x[1]))[:k]
            for scored in found
        ]
        wanted = list({id for scored in best for _, id in scored})
        chunks = dict(zip(wanted, self._sidecar.get(wanted), strict=True))
        return [ranking.hits([(score, chunks[id]) for score, id in scored]) for scored in best]

    def _forget_missing_index(self) -> None:
        """Let `optimize` build the approximate index anew if its file was deleted."""
        state = self._sidecar.state()
        path = self._layout.approximate(state.generation, state.indexed)
        if state.indexed and not path.exists():
            with self._sidecar.writing():
                self._sidecar.set_indexed(0)

    def _truncate(self) -> None:
        state = self._sidecar.state()
        self._layout.matrix(state.generation).truncate(state.rows)

    def _compact(self, state: State) -> None:
        """Write the living rows to a new matrix, and number them anew."""
        old, new = self._layout.matrix(state.generation), self._layout.matrix(state.generation + 1)
        alive = self._alive(state)
        with explained(self._folder), new_file(new.path) as temporary, temporary.open("wb") as file:
            for low, high in spans(0, state.rows, old.dimension):
                file.write(old.mapped(low, high)[alive[low:high]].tobytes())
        with self._writing():
            self._sidecar.renumber()
        self._layout.sweep(self._sidecar.state())

    def _index(self, state: State) -> None:
        """Bring the approximate index up to all rows."""
        matrix = self._layout.matrix(state.generation)
        path = self._layout.approximate(state.generation, state.rows)
        earlier = self._layout.approximate(state.generation, state.indexed)
        with explained(self._folder):
            if ann.write(
                path, state.factory, matrix, state.rows, earlier if state.indexed else None
            ):
                with self._writing():
                    self._sidecar.set_indexed(state.rows)
                self._layout.sweep(self._sidecar.state())
