"""Folders of indexes: told from those of a corpus, and taken back if nothing came into them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autoreg_rag.errors import CorpusError
from autoreg_rag.stores.base import Store
from autoreg_rag.stores.names import DATABASE, QDRANT_STORAGE

_SIGNS = ((DATABASE, "write.lock"), (QDRANT_STORAGE, ".lock"))
"""Files that lie side by side in an index: of FAISS, and of embedded Qdrant."""


def is_index(folder: Path) -> bool:
    """Tell whether a folder holds an index, and so is no part of a corpus."""
    return any(all((folder / name).is_file() for name in names) for names in _SIGNS)


@contextmanager
def kept_if_used(create: Callable[[], Store], folder: Path | None) -> Iterator[Store]:
    """Open a store; if the corpus turns out to be bad, leave no new, empty index behind.

    Parameters
    ----------
    create
        Opens the store for writing, and makes it first if need be.
    folder
        Where it is; None if it is on a server, whose collections always stay.
        So does a folder that is there before `create` is called.
    """
    is_new = folder is not None and not folder.exists()
    store = create()
    try:
        yield store
    except CorpusError:
        is_unused = next(store.sources(), None) is None
        store.close()
        if folder is not None and is_new and is_unused:
            shutil.rmtree(folder.resolve())
        raise
    finally:
        store.close()
