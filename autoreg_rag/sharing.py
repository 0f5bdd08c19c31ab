"""Models that several objects of a process use: loaded once, by one thread at a time."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from autoreg_rag.errors import FingerprintError
from autoreg_rag.model import DEFAULT, AutoRegModel, full_name

Result = TypeVar("Result")


class SharedModel:
    """A model by its name and settings, loaded when it is first used.

    Equal names and settings share one model in a process, for as long as one of
    their objects is there. A model has one lock and, for asynchronous callers,
    one thread: its adapter is switched off while it decodes, so two calls at a
    time could get wrong vectors. A pickle or copy holds name and settings alone.

    Parameters
    ----------
    name
        See `AutoRegModel.from_pretrained`.
    fingerprint
        What the model's must be; None takes the model as it is.
    **settings
        The other arguments of `AutoRegModel.from_pretrained`.

    Attributes
    ----------
    fingerprint
        Of the model, None until it is known.
    """

    def __init__(
        self, name: str = DEFAULT, *, fingerprint: str | None = None, **settings: Any
    ) -> None:
        self.name = full_name(name)
        self.settings = settings
        self.fingerprint = fingerprint
        self._slot: _Slot | None = None

    def use(self, work: Callable[[AutoRegModel], Result]) -> Result:
        """Return what `work` makes of the model, while nobody else works with it.

        Raises
        ------
        ModelError
            The model cannot be loaded.
        FingerprintError
            It is another than the one asked for.
        """
        slot = self._current_slot()
        with slot.lock:
            model, fingerprint = slot.load(self.name, self.settings)
            self._check(fingerprint)
            return work(model)

    async def ause(self, work: Callable[[AutoRegModel], Result]) -> Result:
        """Do the same in the model's own thread, so that the event loop goes on."""
        context = contextvars.copy_context()
        executor = self._current_slot().executor
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, context.run, self.use, work)

    def keep(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """Return what was made under a key, at the first call and for as long as the model is.

        To be called inside `use`, or with a `make` that may run twice; what is kept may hold
        the model.
        """
        kept = self._current_slot().kept
        if key not in kept:
            kept[key] = make()
        found: Result = kept[key]
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SharedModel):
            return NotImplemented
        mine = (self.name, self.fingerprint, self.settings)
        return mine == (other.name, other.fingerprint, other.settings)

    __hash__ = None  # type: ignore[assignment]  # the fingerprint becomes known

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.name, self.fingerprint, self.settings)

    def _current_slot(self) -> _Slot:
        # A forked process has neither the thread nor the state of its parent's locks.
        if self._slot is None or self._slot.process != os.getpid():
            self._slot = _slot(self.name, self.settings)
        return self._slot

    def _check(self, found: str) -> None:
        if self.fingerprint not in (None, found):
            raise FingerprintError(
                f"the model '{self.name}' has fingerprint {found}, and {self.fingerprint} is asked "
                "for: name the model and the settings that made the vectors, or embed anew without "
                "naming a fingerprint"
            )
        self.fingerprint = found


class _Slot:
    """The place of one model: empty until it is loaded."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.executor = ThreadPoolExecutor(1, "autoreg-rag")
        self.process = os.getpid()
        self.kept: dict[Hashable, Any] = {}
        self._loaded: tuple[AutoRegModel, str] | None = None

    def load(self, name: str, settings: dict[str, Any]) -> tuple[AutoRegModel, str]:
        """Return the model and its fingerprint."""
        if self._loaded is None:
            model = AutoRegModel.from_pretrained(name, **settings)
            self._loaded = model, model.fingerprint()
        return self._loaded


_slots: WeakValueDictionary[tuple[Any, ...], _Slot] = WeakValueDictionary()
_slots_lock = threading.Lock()


def _slot(name: str, settings: dict[str, Any]) -> _Slot:
    chosen = sorted((key, value) for key, value in settings.items() if value is not None)
    key = (os.getpid(), name, *chosen)
    with _slots_lock:
        slot = _slots.get(key)
        if slot is None:
            slot = _slots[key] = _Slot()
        return slot


def _again(name: str, fingerprint: str | None, settings: dict[str, Any]) -> SharedModel:
    return SharedModel(name, fingerprint=fingerprint, **settings)
