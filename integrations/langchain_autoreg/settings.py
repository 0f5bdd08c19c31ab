"""The fields by which a model is chosen, shared by embeddings, retriever and reranker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator

from autoreg_rag.config import Pooling
from autoreg_rag.model import DEFAULT, AutoRegModel, full_name
from autoreg_rag.sharing import SharedModel
from autoreg_rag.stores import full_place

Result = TypeVar("Result")


def _in_full(name: Any) -> Any:
    return full_name(name) if isinstance(name, str | Path) else name


def _found_from_anywhere(place: Any) -> Any:
    return full_place(place) if isinstance(place, str | Path) else place


MODEL_NAMES = ("model", "model_name")
"""Both names of the field that names a model."""

Place = Annotated[str, BeforeValidator(_found_from_anywhere)]
"""The absolute path of an index's folder, or the URL of a Qdrant server."""

ModelName = Annotated[str, BeforeValidator(_in_full)]
"""``default``, a hub id, or the absolute path of a folder or GGUF file."""


class LoadSettings(BaseModel):
    """How a model is loaded, whichever it is.

    Objects of equal settings share one model in a process. The fields cannot be
    assigned to: make another object.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())

    device: str | None = Field(default=None, frozen=True)
    """``cpu``, ``cuda``, ``mps``; by default the best there is."""

    dtype: str | None = Field(default=None, frozen=True)
    """``float32``, ``bfloat16`` or ``float16``; by default the device's fastest."""

    attention: str | None = Field(default=None, frozen=True)
    """An attention implementation of transformers."""

    token_budget: int | None = Field(default=None, gt=0, frozen=True)
    """The most tokens of a batch, padding included; by default the device's."""

    query_instruction: str | None = Field(default=None, frozen=True)
    """I_next; by default the model's."""

    document_instruction: str | None = Field(default=None, frozen=True)
    """I_self; by default the model's."""

    pooling: Pooling | None = Field(default=None, frozen=True)
    """``mean``, ``last`` or ``concat``; by default the model's."""

    max_length: int | None = Field(default=None, gt=0, frozen=True)
    """The most tokens of a text, which is cut there; by default the model's."""

    def load_settings(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, by name."""
        return self.model_dump(include=set(LoadSettings.model_fields), exclude_none=True)

    def copy(self, **how: Any) -> Self:
        """Return what `model_copy` does; pydantic's older method would keep model and index."""
        return self.model_copy(**how)


class ModelSettings(LoadSettings):
    """A component that works with a model, which it loads when it first needs it."""

    model_name: ModelName = Field(default=DEFAULT, alias="model", frozen=True)
    """The default model; else a folder, a GGUF file or a hub id."""

    fingerprint: str | None = Field(default=None, frozen=True)
    """What the model's must be; by default whatever it is."""

    _shared: SharedModel | None = PrivateAttr(default=None)

    @field_validator("model_name", mode="before")
    @classmethod
    def _named(cls, name: Any) -> Any:
        return DEFAULT if name is None else name

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; with other settings of the model it finds its own."""
        changed = dict(update or {})
        if changed.keys() & MODEL_NAMES:
            changed["model_name"] = full_name(pop_model(changed))
        copied = super().model_copy(update=changed, deep=deep)
        if changed.keys() & ModelSettings.model_fields.keys():
            copied._shared = None
        return copied

    def _use(self, work: Callable[[AutoRegModel], Result]) -> Result:
        """Return what `work` makes of the model, while nobody else works with it."""
        return self._model().use(work)

    async def _ause(self, work: Callable[[AutoRegModel], Result]) -> Result:
        """Do the same without keeping the event loop."""
        return await self._model().ause(work)

    def _model(self) -> SharedModel:
        if self._shared is None:
            # It is kept, so that the model stays loaded.
            self._shared = SharedModel(
                self.model_name, fingerprint=self.fingerprint, **self.load_settings()
            )
        return self._shared


def pop_model(settings: dict[str, Any]) -> Any:
    """Take the model out of keyword arguments, by either name; None if there is none."""
    names = [settings.pop(name, None) for name in MODEL_NAMES]
    return next((name for name in names if name is not None), None)
