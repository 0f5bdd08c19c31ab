"""An index that is open for searching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from autoreg_rag.corpus.readers.encoding import storable
from autoreg_rag.corpus.records import Hit
from autoreg_rag.errors import ModelNotFoundError
from autoreg_rag.files import is_there
from autoreg_rag.fusion import DEFAULT_ALPHA, check_alpha
from autoreg_rag.index.hybrid import HybridSearch
from autoreg_rag.stores import check_fingerprint, open_store
from autoreg_rag.stores.base import Manifest, Store, Where
from autoreg_rag.stores.names import COLLECTION, DEFAULT_PLACE

if TYPE_CHECKING:
    from autoreg_rag.model import AutoRegModel


class Index:
    """A store of chunks and the model that made its vectors.

    Build it with `open`; it is a context manager.

    Parameters
    ----------
    store
        Open for reading.
    model
        Of the store's fingerprint.

    Raises
    ------
    FingerprintError
        The store was made by another model.
    """

    def __init__(self, store: Store, model: AutoRegModel) -> None:
        check_fingerprint(store, model.fingerprint(), model.reference)
        self.store = store
        self.model = model
        self._hybrid = HybridSearch(store)

    @classmethod
    def open(
        cls,
        place: str | Path = DEFAULT_PLACE,
        *,
        model: str | AutoRegModel | None = None,
        api_key: str | None = None,
        collection: str = COLLECTION,
        device: str | None = None,
        dtype: str | None = None,
    ) -> Index:
        """Open an index with the model that made it.

        Parameters
        ----------
        place
            The folder, or the URL of a Qdrant server.
        model
            By default the model that the index names.
        api_key, collection
            For a Qdrant server.
        device, dtype
            See `AutoRegModel.from_pretrained`.

        Raises
        ------
        StoreError
            There is no index, or it cannot be opened.
        FingerprintError
            The index was made by another model.
        ModelError
            The model cannot be found or loaded.
        """
        store = open_store(place, api_key=api_key, collection=collection)
        try:
            if model is None or isinstance(model, str):
                from autoreg_rag.model import AutoRegModel  # takes seconds; there is an index

                named = model_of(store.manifest) if model is None else model
                model = AutoRegModel.from_pretrained(named, device=device, dtype=dtype)
            return cls(store, model)
        except BaseException:
            store.close()
            raise

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        where: Where | None = None,
        hybrid: bool = False,
        alpha: float = DEFAULT_ALPHA,
    ) -> list[list[Hit]]:
        """Find the passages that answer each question, best first.

        Parameters
        ----------
        queries
            Questions, embedded together under I_next. NULs and lone surrogates in
            them count as U+FFFD, as they do in documents.
        k
            How many hits for each.
        where
            Values that ``source`` or metadata must have: one, or any of several.
        hybrid
            Fuse the ranking by cosine with one by BM25 (see
            `autoreg_rag.fusion.hybrid_scores`). The first such search reads all
            texts, and so does the first one after files were indexed.
        alpha
            Under `hybrid`, the weight of the cosine, from 0, BM25 alone, to 1.

        Returns
        -------
        list of list of Hit
            At most `k` for each question. A hit's score is the cosine, or under
            `hybrid` the fused score; ``scores`` names its parts.

        Raises
        ------
        ValueError
            `k` is below 1, a question is empty, or `alpha` outside 0 to 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; it must be 1 or more")
        if isinstance(queries, str):
            raise TypeError("a list of questions is needed, not one question")
        if not all(query.strip() for query in queries):
            raise ValueError("a question is empty")
        check_alpha(alpha)
        queries = [storable(query) for query in queries]
        vectors = self.model.encode_queries(queries)
        if hybrid:
            return self._hybrid.search(queries, vectors, k, [where], alpha)
        return self.store.search(vectors, k, where)

    def close(self) -> None:
        """Release the store; calling it again does nothing."""
        self.store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def model_of(manifest: Manifest) -> str:
    """Return the name of the model that made an index.

    Raises
    ------
    ModelNotFoundError
        It is the path of a folder or file that is not there any more.
    """
    name = manifest.model
    if Path(name).is_absolute() and not is_there(Path(name)):
        raise ModelNotFoundError(
            f"the model that made the index is not at {name} any more: if it has moved, name it "
            "(--model, or model_name=...)"
        )
    return name
