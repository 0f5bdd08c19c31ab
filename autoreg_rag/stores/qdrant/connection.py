"""A Qdrant client that tries again when that may help, and says what is wrong when it does not."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import tenacity
from filelock import FileLock
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)

from autoreg_rag.errors import StoreError
from autoreg_rag.pretrained import cache_folder
from autoreg_rag.stores import faults
from autoreg_rag.stores.folders import take_lock

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")

_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 60
_CONNECT_ATTEMPTS = 3
_REQUEST_ATTEMPTS = 8
_RETRY_SECONDS = 120
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_FORBIDDEN = {401, 403}
_REASON_LENGTH = 200
_POINTS_AT_ONCE = 256

# As JSON holds it, with escaped quotes.
_NOT_INDEXED = re.compile(
    r'Index required but not found for \\"(.+)\\"(?: of one of the following types: \[(.+?)\])?'
)

_logger = logging.getLogger(__name__)


class Connection:
    """A client of a Qdrant server, or of Qdrant embedded in this process.

    Attributes
    ----------
    client
        The client; its methods are to be called through `call`.
    place
        The folder or the server's address, without secrets.
    embedded
        Whether it is a folder.
    """

    def __init__(self, client: QdrantClient, place: str, embedded: bool) -> None:
        self.client = client
        self.place = place
        self.embedded = embedded
        self._lock: FileLock | None = None
        self._closed = False

    @classmethod
    def to_server(cls, url: str, api_key: str | None) -> Connection:
        """Connect to a server; one that does not answer is noticed within seconds."""

        def client(seconds: int) -> QdrantClient:
            # Versions are not compared: what is needed from the server is tried instead.
            return QdrantClient(
                url=url, api_key=api_key, timeout=seconds, check_compatibility=False
            )

        try:
            place = shown(url)
            first = client(_CONNECT_SECONDS)
        except ValueError as error:
            raise StoreError(f"this is not the address of a Qdrant server: {error}") from None
        with closing(first), _explained_answer(place):
            _retrying(place, _CONNECT_ATTEMPTS)(first.info)
        return cls(client(_REQUEST_SECONDS), place, embedded=False)

    @classmethod
    def to_folder(cls, folder: Path) -> Connection:
        """Open, or make, an embedded storage; one process at a time may."""
        with faults.explained(folder):
            try:
                client = QdrantClient(path=str(folder))
            except RuntimeError as error:
                raise StoreError(
                    f"another process, or another store of this one, has {folder} open, and "
                    "embedded Qdrant allows only one: wait until it is done, or use a server"
                ) from error
            except (KeyError, TypeError, ValueError) as error:
                raise faults.damaged(folder, " ".join(str(error).split())) from error
        return cls(client, str(folder), embedded=True)

    def call(
        self,
        method: Callable[Parameters, Answer],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Answer:
        """Call a method of the client.

        Raises
        ------
        StoreError
            If it fails, and trying again does not help; or the connection is closed.
        """
        if self._closed:
            raise StoreError(f"the index at {self.place} was closed: open it again")
        with self._explained():
            return _retrying(self.place, _REQUEST_ATTEMPTS)(method, *args, **kwargs)

    def scroll(self, collection: str, with_payload: bool | list[str]) -> Iterator[models.Record]:
        """Yield all points of a collection, in order of id, with all or some of the payload."""
        offset: Any = None
        while True:
            points, offset = self.call(
                self.client.scroll,
                collection,
                limit=_POINTS_AT_ONCE,
                offset=offset,
                with_payload=with_payload,
            )
            yield from points
            if offset is None:
                return

    def lock(self, collection: str) -> None:
        """Keep other writers of this machine out of a collection, until `close`.

        Embedded Qdrant has a lock of its own, for the whole folder.

        Raises
        ------
        StoreError
            If another process, or another connection of this one, writes to it.
        """
        if self.embedded or self._lock:
            return
        name = hashlib.sha256(f"{self.place}\n{collection}".encode()).hexdigest()
        folder = cache_folder() / "locks"
        with faults.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(
                folder / f"{name}.lock", f"the collection '{collection}' at {self.place}"
            )

    def close(self) -> None:
        """Close the client and release the lock; calling it again does nothing."""
        self._closed = True
        try:
            self.client.close()
        finally:
            if self._lock:
                self._lock.release()

    def _explained(self) -> AbstractContextManager[None]:
        return (
            faults.explained(Path(self.place)) if self.embedded else _explained_answer(self.place)
        )


def shown(url: str) -> str:
    """Return the URL of a server without user, password and query.

    Raises
    ------
    ValueError
        If it is not one.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it takes http:// or https:// and a host")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _retrying(place: str, attempts: int) -> tenacity.Retrying:
    def say(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        _logger.warning("Qdrant at %s: %s; trying again", place, _reason(error))

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_transient),
        stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_after_delay(_RETRY_SECONDS),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=20),
        before_sleep=say,
        reraise=True,
    )


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, ResponseHandlingException):
        # From sending, or a `ValueError` from reading an answer that came.
        return not isinstance(error.source, ValueError)
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _TRANSIENT
    return isinstance(error, ResourceExhaustedResponse)


@contextmanager
def _explained_answer(place: str) -> Iterator[None]:
    """Turn errors of a server's client into a `StoreError` of one line."""
    try:
        yield
    except UnexpectedResponse as error:
        if error.status_code in _FORBIDDEN:
            raise StoreError(f"the Qdrant server at {place} refuses the API key") from error
        if refused := _NOT_INDEXED.search(error.content.decode(errors="replace")):
            path = refused[1].replace('\\"', '"')
            types = refused[2] or "keyword, integer, float or bool"
            raise StoreError(
                f"the Qdrant server at {place} filters by nothing without a payload index: create "
                f"one on {path} of the collection (type: {types}), or leave that filter out"
            ) from error
        raise StoreError(f"the Qdrant server at {place} failed: {_reason(error)}") from error
    except ResponseHandlingException as error:
        raise StoreError(
            f"no usable answer from a Qdrant server at {place} ({_reason(error)}): "
            "check that it runs and that the address is right"
        ) from error
    except (ApiException, QdrantException) as error:
        raise StoreError(f"the Qdrant server at {place} failed: {_reason(error)}") from error


def _reason(error: BaseException | None) -> str:
    if isinstance(error, ResponseHandlingException):
        error = error.source
    text = " ".join(str(error).split())
    return text[:_REASON_LENGTH] or type(error).__name__
