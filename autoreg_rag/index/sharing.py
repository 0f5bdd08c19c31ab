"""Indexes that several objects of a process search: opened once, used by one thread at a time."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary, finalize

from autoreg_rag.errors import StoreError
from autoreg_rag.index.index import Index, model_of
from autoreg_rag.sharing import SharedModel
from autoreg_rag.stores import open_store, shown_place
from autoreg_rag.stores.names import COLLECTION, DATABASE, DEFAULT_PLACE

Result = TypeVar("Result")


class SharedIndex:
    """An index by its place, open while at least one object of the process uses it.

    Equal places and settings share one `Index`: embedded Qdrant admits no
    second one, and the words of a hybrid search are read once. Its model is a
    `SharedModel`, whose lock and thread also order the searches. A pickle or
    copy holds place and settings alone.

    Parameters
    ----------
    place
        The folder, or the URL of a Qdrant server.
    collection, api_key
        For a Qdrant server.
    model
        By default the model that the index names.
    **settings
        The other arguments of `AutoRegModel.from_pretrained`.
    """

    def __init__(
        self,
        place: str | Path = DEFAULT_PLACE,
        *,
        collection: str = COLLECTION,
        api_key: str | None = None,
        model: str | None = None,
        **settings: Any,
    ) -> None:
        self.place = str(place)
        self.collection = collection
        self.model = model
        self.settings = settings
        self._api_key = api_key
        self._opened: _Opened | None = None
        self._is_closed = False

    def open(self) -> None:
        """Open index and model now, not at the first search.

        Raises
        ------
        StoreError
            There is no index, it cannot be opened, or `close` was called.
        FingerprintError
            The index was made by another model.
        ModelError
            The model cannot be loaded.
        """
        self._current()

    def use(self, work: Callable[[Index], Result]) -> Result:
        """Return what `work` makes of the index, while nobody else works with its model.

        Raises the errors of `open`.
        """
        opened = self._current()
        return opened.model.use(lambda _: work(opened.index))

    async def ause(self, work: Callable[[Index], Result]) -> Result:
        """Do the same in the model's own thread, so that the event loop goes on."""
        opened = await asyncio.to_thread(self._current)
        return await opened.model.ause(lambda _: work(opened.index))

    @property
    def model_name(self) -> str:
        """The name of the index's model."""
        return self._current().model.name

    def close(self) -> None:
        """Let go of the index, which is closed when nobody holds it any more."""
        self._is_closed = True
        self._opened = None

    def __reduce__(self) -> tuple[Any, ...]:
        where = {"collection": self.collection, "api_key": self._api_key, "model": self.model}
        return _again, (self.place, where | self.settings)

    def _current(self) -> _Opened:
        if self._is_closed:
            place = shown_place(self.place)
            raise StoreError(f"{place} was closed here: open it again by a new object")
        # A forked process must not use the files and locks that its parent has open.
        opened = self._opened
        if opened is None or opened.process != os.getpid():
            opened = self._opened = self._join()
        return opened

    def _join(self) -> _Opened:
        """Return what others have open at this place, or open it."""
        chosen = sorted((name, value) for name, value in self.settings.items() if value is not None)
        place = _identity(self.place)
        key = (os.getpid(), place, self.collection, self._api_key, self.model, *chosen)
        with _lock:
            opened = _all_opened.get(key)
            if opened is None:
                store = open_store(self.place, api_key=self._api_key, collection=self.collection)
                try:
                    name = self.model or model_of(store.manifest)
                    model = SharedModel(name, **dict(chosen))
                    index = model.use(lambda loaded: Index(store, loaded))
                except BaseException:
                    store.close()
                    raise
                opened = _all_opened[key] = _Opened(index, model)
            return opened


class _Opened:
    """An index that is open until the last who holds this object is gone."""

    def __init__(self, index: Index, model: SharedModel) -> None:
        self.index = index
        self.model = model
        self.process = os.getpid()
        finalize(self, _close, index, self.process)


def _close(index: Index, process: int) -> None:
    if process == os.getpid():
        index.close()
    else:
        # A forked process shares its parent's lock, which the end of the client would give
        # up for both.
        _inherited.append(index)


_inherited: list[Index] = []
_all_opened: WeakValueDictionary[tuple[Any, ...], _Opened] = WeakValueDictionary()
_lock = threading.Lock()


def _identity(place: str) -> tuple[Any, ...]:
    """Return what two places have in common if they are one, and still the same, index."""
    folder = Path(place)
    for name in (DATABASE, ".lock"):
        if (folder / name).is_file():
            # The file is open as long as the index is, so its number is not given to another.
            status = (folder / name).stat()
            return status.st_dev, status.st_ino
    return (place,)


def _again(place: str, options: dict[str, Any]) -> SharedIndex:
    return SharedIndex(place, **options)
