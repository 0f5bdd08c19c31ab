"""A corpus of which nothing is left: an error, unless it is to be taken out of the index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from autoreg_rag.corpus import EmptyCorpusError, corpus_name
from autoreg_rag.corpus.files import corpus_path
from autoreg_rag.errors import StoreError
from autoreg_rag.stores.base import Store


def check_gone(
    error: EmptyCorpusError, root: Path, corpora: Mapping[str, str], *, allow_empty: bool
) -> None:
    """Raise the error, unless the index knows the corpus and it may be taken out.

    A disk that is not mounted looks just like a corpus that was deleted.

    Parameters
    ----------
    error
        Says what is missing; if the index knows the corpus, so does what to do about it.
    root
        The corpus.
    corpora
        Those of the index, as in its manifest.
    allow_empty
        Whether it may be taken out.
    """
    name = corpus_name(root)
    if corpora.get(name) != corpus_path(root):
        raise error
    if not allow_empty:
        raise EmptyCorpusError(
            f"{error}; if that is meant, --allow-empty removes the corpus {name!r} from the index"
        ) from error


def known_corpora(open_: Callable[[], Store], *, is_needed: bool) -> Mapping[str, str]:
    """Return the corpora of an index.

    Parameters
    ----------
    open_
        Opens it.
    is_needed
        Whether it is an error if it cannot be opened; else it counts as one without corpora.
    """
    try:
        with open_() as store:
            return store.manifest.corpora
    except StoreError:
        if is_needed:
            raise
        return {}
