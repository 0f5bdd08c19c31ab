"""AutoRegEmbed as an embedding model of LangChain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings

from autoreg_rag.index.index import model_of
from autoreg_rag.model import AutoRegModel
from autoreg_rag.stores import full_place, open_store
from autoreg_rag.stores.names import COLLECTION, DEFAULT_PLACE
from langchain_autoreg.settings import ModelSettings, pop_model


class AutoRegEmbeddings(ModelSettings, Embeddings):
    """Embeddings that follow an LLM's autoregressive nature (Deng et al. 2025).

    A query is embedded under I_next, "the text that answers this", a document under
    I_self, "this text itself", each as the model was trained to. Vectors have unit
    length. The model is loaded when it is first used, once per process for equal
    settings; threads take turns, and asynchronous calls do not keep the event loop.

    Parameters
    ----------
    model
        Also ``model_name``. By default the default model; else a folder, a GGUF
        file or a hub id.
    device, dtype, attention, token_budget
        See `autoreg_rag.AutoRegModel.from_pretrained`.
    query_instruction, document_instruction, pooling, max_length
        To change what is saved with the model, see `autoreg_rag.AutoRegConfig`.
    fingerprint
        What the model's must be. By default whatever it is.
    show_progress
        Draw a progress bar on standard error while documents are embedded.

    Raises
    ------
    pydantic.ValidationError
        An argument is unknown or wrong.
    ModelError, FingerprintError
        When first used: the model cannot be loaded, or is another.

    Examples
    --------
    >>> AutoRegEmbeddings(max_length=256).model_name
    'default'
    """

    show_progress: bool = False

    @classmethod
    def from_index(
        cls,
        place: str | Path = DEFAULT_PLACE,
        *,
        collection: str = COLLECTION,
        api_key: str | None = None,
        **settings: Any,
    ) -> AutoRegEmbeddings:
        """Return the embeddings that made an index, for a vector store that opens it.

        The index is closed again before they are returned.

        Parameters
        ----------
        place
            The folder, or the URL of a Qdrant server.
        collection, api_key
            For a Qdrant server.
        **settings
            Of the class: ``device``, ``model`` if the model has moved, an
            instruction if the index was made with another than the model's.

        Returns
        -------
        AutoRegEmbeddings
            They raise a `FingerprintError` at their first use if their model is not
            the one that the index was made with.

        Raises
        ------
        StoreError
            There is no index, or it cannot be opened.
        ModelNotFoundError
            Its model has moved, and no other is named.
        """
        with open_store(full_place(place), collection=collection, api_key=api_key) as store:
            manifest = store.manifest
        model = pop_model(settings)
        name = model_of(manifest) if model is None else model
        return cls(**{"fingerprint": manifest.fingerprint, **settings, "model_name": name})

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, under I_self.

        Parameters
        ----------
        texts
            n texts. One over ``max_length`` tokens is cut, with a warning.

        Returns
        -------
        list of list of float
            n vectors of unit length, in the order of `texts`.

        Raises
        ------
        TypeError
            `texts` is not a list of texts.
        """
        return self._use(self._documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """Embed a question, under I_next; see `embed_documents`."""
        return self._use(_question(text))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Do what `embed_documents` does without keeping the event loop."""
        return await self._ause(self._documents(texts))

    async def aembed_query(self, text: str) -> list[float]:
        """Do what `embed_query` does without keeping the event loop."""
        return await self._ause(_question(text))

    def load_fingerprint(self) -> str:
        """Return the fingerprint of the model, which is loaded if it is not yet.

        It changes with anything that changes a vector, so it is a safe namespace
        for a cache of vectors.
        """
        return self._use(AutoRegModel.fingerprint)

    def _documents(self, texts: Sequence[str]) -> Callable[[AutoRegModel], list[list[float]]]:
        """Return what is to be done with the model."""
        checked = _checked(texts)

        def encode(model: AutoRegModel) -> list[list[float]]:
            vectors = model.encode_documents(checked, show_progress=self.show_progress)
            return _floats(vectors)

        return encode


def _question(text: str) -> Callable[[AutoRegModel], list[float]]:
    checked = _checked([text])
    return lambda model: _floats(model.encode_queries(checked))[0]


def _floats(vectors: Any) -> list[list[float]]:
    floats: list[list[float]] = vectors.tolist()
    return floats


def _checked(texts: Sequence[str]) -> list[str]:
    """Return the texts as a list; TypeError if one is none."""
    if isinstance(texts, str):
        raise TypeError("a list of texts is needed, not one text")
    texts = list(texts)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {place} is a {type(text).__name__}; it must be a str")
    return texts
