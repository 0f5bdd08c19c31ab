"""Finding the store that belongs to a folder or an address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoreg_rag.errors import StoreError
from autoreg_rag.stores.base import Manifest, Store
from autoreg_rag.stores.names import COLLECTION, DATABASE, EXACT, QDRANT_STORAGE

if TYPE_CHECKING:
    from autoreg_rag.stores.faiss_store import FaissStore

Kind = Literal["faiss", "qdrant"]

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

    An index that is there keeps its manifest, which the caller compares.

    Parameters
    ----------
    kind
        ``faiss`` or ``qdrant``.
    location
        A folder, or for Qdrant the URL of a server (``http://``, ``https://``).
        A new index appears whole or not at all.
    manifest
        For a new index.
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
    StoreError
        If there is something else, or the index cannot be made or opened.
    """
    if kind == "faiss":
        return _create_faiss(Path(location), manifest, float16, factory)
    if factory is not None:
        raise StoreError(f"--faiss-factory {factory} goes with --store faiss only")
    return _create_qdrant(_place(location), manifest, api_key, collection, bool(float16))


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
            from autoreg_rag.stores.faiss_store import FaissStore

            return FaissStore(place, writable=writable)
    from autoreg_rag.stores.qdrant_store import QdrantStore

    return QdrantStore.open(place, writable=writable, api_key=api_key, collection=collection)


def _create_faiss(
    folder: Path, manifest: Manifest, float16: bool | None, factory: str | None
) -> FaissStore:
    from autoreg_rag.stores.faiss_store import FaissStore

    if _is_new(folder, "faiss"):
        chosen = EXACT if factory is None else factory
        FaissStore.create(folder, manifest, float16=bool(float16), factory=chosen)
    store = FaissStore(folder, writable=True)
    try:
        if float16 not in (None, store.float16):
            precision = "half" if store.float16 else "single"
            raise StoreError(
                f"{folder} stores vectors in {precision} precision, which cannot be changed: "
                "index into another folder, or leave the option out"
            )
        if factory is not None:
            store.use_factory(factory)
    except BaseException:
        store.close()
        raise
    return store


def _create_qdrant(
    place: Path | str, manifest: Manifest, api_key: str | None, collection: str, float16: bool
) -> Store:
    from autoreg_rag.stores.qdrant_store import QdrantStore

    if isinstance(place, Path):
        _is_new(place, "qdrant")
    return QdrantStore.create(
        place, manifest, api_key=api_key, collection=collection, float16=float16
    )


def _is_new(folder: Path, kind: Kind) -> bool:
    """Say whether an index is yet to be made; refuse a folder that holds something else."""
    found = _kind(folder)
    if found == kind:
        return False
    if found:
        raise StoreError(f"{folder} is an index of kind {found}: use --store {found}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} {_description(folder)}: choose another --out")
    return True


def _kind(folder: Path) -> Kind | None:
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
    is_url = isinstance(location, str) and location.startswith(("http://", "https://"))
    return location if is_url else Path(location)
