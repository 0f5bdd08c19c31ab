"""Finding the store that belongs to a folder or an address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoreg_rag.errors import StoreError
from autoreg_rag.files import expanded
from autoreg_rag.stores.base import Manifest, Store
from autoreg_rag.stores.faults import explained
from autoreg_rag.stores.fingerprint import check_fingerprint
from autoreg_rag.stores.names import COLLECTION, DATABASE, EXACT, QDRANT_STORAGE

if TYPE_CHECKING:
    from autoreg_rag.stores.faiss.store import FaissStore
    from autoreg_rag.stores.qdrant.store import QdrantStore

Kind = Literal["faiss", "qdrant"]

_SCHEMES = ("http://", "https://")
_COMMAND = "'python -m autoreg_rag.index CORPUS --out DIR'"


def create_store(
    kind: Kind,
    location: Path | str,
    manifest: Manifest,
    *,
    api_key: str | None = None,
    collection: str = COLLECTION,
    float16: bool | None = None,
    factory: str | None = None,
) -> Store:
    """Open an index for writing; make it first if it is not there.

    An index that is there keeps its manifest, and must be of the same model.
    Until it is known that all options suit it, nothing of it is changed but
    what a crash has left behind.

    Parameters
    ----------
    kind
        ``faiss`` or ``qdrant``.
    location
        A folder, or for Qdrant the URL of a server (``http://``, ``https://``).
        A new index appears whole or not at all.
    manifest
        For a new index; its fingerprint and model are compared with those of
        a present one.
    api_key, collection
        For Qdrant.
    float16
        Whether to store vectors in half precision; None leaves a present
        index as it is, and means no for a new one.
    factory
        The FAISS factory string of the approximate index; None leaves it as
        it is, and means ``Flat`` for a new one.

    Raises
    ------
    FingerprintError
        If the index that is there was made by another model.
    StoreError
        If there is something else, or the index cannot be made or opened.
    """
    place = _place(location)
    if kind == "faiss":
        if not isinstance(place, Path):
            raise StoreError(
                f"{shown_place(location)} is a server's address, and FAISS takes a folder: "
                "its kind is qdrant"
            )
        _check_collection(collection)
        store = _create_faiss(place, manifest, float16, factory)
        with _closed_if_refused(store, manifest, float16):
            if factory is not None:
                store.use_factory(factory)
        return store
    if factory is not None:
        raise StoreError(f"--faiss-factory {factory} goes with --store faiss only")
    qdrant = _create_qdrant(place, manifest, api_key, collection, bool(float16))
    with _closed_if_refused(qdrant, manifest, float16):
        return qdrant


def open_store(
    location: Path | str,
    *,
    writable: bool = False,
    api_key: str | None = None,
    collection: str = COLLECTION,
) -> Store:
    """Open an index that is there, of either kind.

    Parameters
    ----------
    location
        A folder, or the URL of a Qdrant server.
    writable
        Whether chunks will be added or removed.
    api_key, collection
        For Qdrant.

    Raises
    ------
    StoreError
        If there is no index, or it cannot be opened.
    """
    place = _place(location)
    if isinstance(place, Path):
        kind = _kind(place)
        if kind is None:
            raise StoreError(f"{place} {_description(place)}: make an index with {_COMMAND}")
        if kind == "faiss":
            from autoreg_rag.stores.faiss.store import FaissStore

            _check_collection(collection)
            return FaissStore(place, writable=writable)
    from autoreg_rag.stores.qdrant.store import QdrantStore

    return QdrantStore.open(place, writable=writable, api_key=api_key, collection=collection)


def check_url(url: str) -> str:
    """Return a URL that was meant as one; any other text would be taken for a folder.

    Raises
    ------
    StoreError
        If it does not start as the URL of a Qdrant server does.
    """
    if not url.startswith(_SCHEMES):
        raise StoreError("the URL must start with http:// or https://")
    return url


def full_place(location: Path | str) -> str:
    """Return the place of an index by which it is found from any folder."""
    place = _place(location)
    return str(place.resolve()) if isinstance(place, Path) else place


def shown_place(location: Path | str) -> str:
    """Return a place as people may read it: a server's URL without secrets.

    Of a URL that is none only the scheme: who can tell what in it is secret?
    """
    place = _place(location)
    if isinstance(place, Path):
        return str(location)
    from autoreg_rag.stores.qdrant.connection import shown  # whose client takes long to import

    try:
        return shown(place)
    except ValueError:
        return f"{place.partition('://')[0]}://..."


def _check_collection(name: str) -> None:
    if name != COLLECTION:
        raise StoreError(f"--collection {name} goes with Qdrant only: a FAISS folder is one index")


def _create_faiss(
    folder: Path, manifest: Manifest, float16: bool | None, factory: str | None
) -> FaissStore:
    from autoreg_rag.stores.faiss.store import FaissStore

    if _is_new(folder, "faiss"):
        chosen = EXACT if factory is None else factory
        FaissStore.create(folder, manifest, float16=bool(float16), factory=chosen)
    return FaissStore(folder, writable=True)


def _create_qdrant(
    place: Path | str, manifest: Manifest, api_key: str | None, collection: str, float16: bool
) -> QdrantStore:
    from autoreg_rag.stores.qdrant.store import QdrantStore

    if isinstance(place, Path):
        if float16:
            raise StoreError(
                "embedded Qdrant cannot keep vectors in float16: leave out --float16, or use "
                "--store faiss or a server (--url)"
            )
        _is_new(place, "qdrant")
    return QdrantStore.create(
        place, manifest, api_key=api_key, collection=collection, float16=float16
    )


@contextmanager
def _closed_if_refused(store: Store, manifest: Manifest, float16: bool | None) -> Iterator[None]:
    """Check that a store suits what is asked for; close it if it, or the block, fails."""
    try:
        check_fingerprint(store, manifest.fingerprint, manifest.model)
        if float16 is not None and float16 != store.float16:
            precision = "half" if store.float16 else "single"
            raise StoreError(
                f"the index stores vectors in {precision} precision, which cannot be changed: "
                f"index into another place ({store.options()}), or leave the option out"
            )
        yield
    except BaseException:
        store.close()
        raise


def _is_new(folder: Path, kind: Kind) -> bool:
    """Say whether an index is yet to be made; refuse a folder that holds something else."""
    found = _kind(folder)
    if found == kind:
        return False
    if found:
        raise StoreError(f"{folder} is an index of kind {found}: use --store {found}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} {_description(folder)}: choose another --out")
    for parent in folder.parents:
        if parent.exists() and not parent.is_dir():
            raise StoreError(f"{parent} is not a folder: choose another --out than {folder}")
    return True


def _kind(folder: Path) -> Kind | None:
    with explained(folder):
        if (folder / DATABASE).is_file():
            return "faiss"
        if (folder / QDRANT_STORAGE).is_file():
            return "qdrant"
    return None


def _description(folder: Path) -> str:
    if not folder.exists():
        return "does not exist"
    if not folder.is_dir():
        return "is not a folder"
    return "holds something other than an index" if any(folder.iterdir()) else "is empty"


def _place(location: Path | str) -> Path | str:
    is_url = isinstance(location, str) and location.startswith(_SCHEMES)
    return location if is_url else expanded(location)
