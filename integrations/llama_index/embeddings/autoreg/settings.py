"""The fields that name a model, shared by the embedding and the reranker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    field_serializer,
    field_validator,
    model_validator,
)
from llama_index.core.schema import BaseComponent

from autoreg_rag.config import Pooling
from autoreg_rag.model import DEFAULT, AutoRegModel, full_name
from autoreg_rag.sharing import SharedModel

Result = TypeVar("Result")


class FromDump(BaseComponent):
    """A component that can be validated from its own dump."""

    @model_validator(mode="before")
    @classmethod
    def _without_class_name(cls, data: Any) -> Any:
        """Take the dump of a component of this class, which names its class, as it is."""
        if isinstance(data, dict) and data.get("class_name") == cls.class_name():
            return {key: value for key, value in data.items() if key != "class_name"}
        return data

    def copy(self, **how: Any) -> Self:
        """Return what `model_copy` does; pydantic's older method would keep model and index."""
        return self.model_copy(**how)


class ModelSettings(FromDump):
    """A component that works with a model, which it loads when it first needs it.

    Components with equal settings share one model. A dictionary, JSON or pickle
    of the component names the model's fingerprint, for which it loads the model
    if need be; made again from one of these, the component refuses a model with
    another fingerprint.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=("pydantic_model_",))

    model_name: str = Field(
        default=DEFAULT,
        frozen=True,
        description="The default model; else a folder, a GGUF file or a hub id.",
    )
    device: str | None = Field(
        default=None, frozen=True, description="cpu, cuda, mps; by default the best there is."
    )
    dtype: str | None = Field(
        default=None,
        frozen=True,
        description="float32, bfloat16 or float16; by default the device's fastest.",
    )
    attention: str | None = Field(
        default=None, frozen=True, description="An attention implementation of transformers."
    )
    token_budget: int | None = Field(
        default=None,
        gt=0,
        frozen=True,
        description="The most tokens of a batch, padding included; by default the device's.",
    )
    query_instruction: str | None = Field(
        default=None, frozen=True, description="I_next; by default the model's."
    )
    document_instruction: str | None = Field(
        default=None, frozen=True, description="I_self; by default the model's."
    )
    pooling: Pooling | None = Field(
        default=None, frozen=True, description="mean, last or concat; by default the model's."
    )
    max_length: int | None = Field(
        default=None,
        gt=0,
        frozen=True,
        description="The most tokens of a text, which is cut there; by default the model's.",
    )
    fingerprint: str | None = Field(
        default=None,
        frozen=True,
        description="What the model's must be; by default whatever it is, known after its use.",
    )

    _shared: SharedModel | None = PrivateAttr(default=None)
    _found: str | None = PrivateAttr(default=None)

    @field_validator("model_name", mode="before")
    @classmethod
    def _in_full(cls, name: Any) -> Any:
        return full_name(name) if name is None or isinstance(name, str | Path) else name

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy.

        With other settings of the model it finds its own, and does not insist on the
        fingerprint, unless that was asked for, and not found by loading the model.
        """
        changed = dict(update or {})
        if not changed.keys() & ModelSettings.model_fields.keys():
            return super().model_copy(update=changed, deep=deep)
        if self._found is not None and self.fingerprint == self._found:
            changed = {"fingerprint": None, **changed}
        if "model_name" in changed:
            changed["model_name"] = full_name(changed["model_name"])
        copied = super().model_copy(update=changed, deep=deep)
        copied._shared = None
        return copied

    @field_serializer("fingerprint")
    def _known_fingerprint(self, _: str | None) -> str:
        return self._fingerprint()

    def __getstate__(self) -> dict[str, Any]:
        self._fingerprint()
        return super().__getstate__()

    def _fingerprint(self) -> str:
        """Return the fingerprint, for which the model may have to be loaded."""
        if self.fingerprint is None:
            self._use(lambda _: None)
        return str(self.fingerprint)

    async def _afingerprint(self) -> str:
        if self.fingerprint is None:
            await self._ause(lambda _: None)
        return str(self.fingerprint)

    def _use(self, work: Callable[[AutoRegModel], Result]) -> Result:
        """Return what `work` makes of the model, while nobody else works with it."""
        model = self._model()
        result = model.use(work)
        self._pin(model)
        return result

    async def _ause(self, work: Callable[[AutoRegModel], Result]) -> Result:
        """Do the same without keeping the event loop."""
        model = self._model()
        result = await model.ause(work)
        self._pin(model)
        return result

    def _pin(self, model: SharedModel) -> None:
        if self.fingerprint is None:
            self._found = model.fingerprint
        self.__dict__["fingerprint"] = model.fingerprint  # past the guard of frozen fields

    def _model(self) -> SharedModel:
        if self._shared is None:
            chosen = {
                "device": self.device,
                "dtype": self.dtype,
                "attention": self.attention,
                "token_budget": self.token_budget,
                "query_instruction": self.query_instruction,
                "document_instruction": self.document_instruction,
                "pooling": self.pooling,
                "max_length": self.max_length,
            }
            settings = {key: value for key, value in chosen.items() if value is not None}
            # It is kept, so that the model stays loaded.
            self._shared = SharedModel(self.model_name, fingerprint=self.fingerprint, **settings)
        return self._shared
