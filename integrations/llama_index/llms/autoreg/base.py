"""The frozen base of an AutoRegEmbed model as an LLM of LlamaIndex."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    TextBlock,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM

from autoreg_rag.chat import MAX_NEW_TOKENS, Chat, Message
from autoreg_rag.model import AutoRegModel
from autoreg_rag.sharing import SharedModel
from llama_index.embeddings.autoreg.settings import ModelSettings

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


class AutoRegLLM(ModelSettings, CustomLLM):
    """Writes with the language model that an `AutoRegEmbedding` embeds with.

    The adapter is off, so it is the base as it was made, and with the settings of
    an `AutoRegEmbedding` it shares that one's weights. Replies are greedy. A stream
    is one piece, the whole reply.

    The other fields are those of `ModelSettings` and of LlamaIndex's `LLM`.

    Parameters
    ----------
    max_new_tokens
        Where a reply stops if the model does not end it.

    Raises
    ------
    pydantic.ValidationError
        An argument is unknown or wrong.
    ValueError
        When used: a message has another role than the system's, a user's or an
        assistant's, or holds more than text.
    ModelError
        When used: the model cannot be loaded, or the prompt does not fit its window.
    """

    max_new_tokens: int = Field(
        default=MAX_NEW_TOKENS, gt=0, description="The most tokens of a reply."
    )

    _window: tuple[SharedModel, int] | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps of the LLM carry."""
        return "AutoRegLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The window and the longest reply, for which the model is loaded if need be."""
        model = self._model()
        # LlamaIndex looks before every call: what is known must not wait for the model.
        if self._window is None or self._window[0] != model:
            self._window = model, self._use(lambda loaded: self._chat(loaded).window)
        return LLMMetadata(
            context_window=self._window[1],
            num_output=self.max_new_tokens,
            is_chat_model=True,
            model_name=self.model_name,
        )

    def to_payload(self) -> dict[str, Any]:
        """Return what events tell of the LLM, for which the model is not needed."""
        return {
            "class_name": self.class_name(),
            "model_name": self.model_name,
            "num_output": self.max_new_tokens,
            "is_chat_model": True,
        }

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Reply to a prompt, as to a user's message."""
        return CompletionResponse(text=self._use(self._reply([Message("user", prompt)])))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Do what `complete` does without keeping the event loop."""
        text = await self._ause(self._reply([Message("user", prompt)]))
        return CompletionResponse(text=text)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Yield the reply to a prompt, in one piece."""

        def pieces() -> CompletionResponseGen:
            text = self._use(self._reply([Message("user", prompt)]))
            yield CompletionResponse(text=text, delta=text)

        return pieces()

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Do what `stream_complete` does without keeping the event loop."""

        async def pieces() -> CompletionResponseAsyncGen:
            text = await self._ause(self._reply([Message("user", prompt)]))
            yield CompletionResponse(text=text, delta=text)

        return pieces()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Reply to a conversation."""
        return _response(self._use(self._reply(_turns(messages))))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Do what `chat` does without keeping the event loop."""
        return _response(await self._ause(self._reply(_turns(messages))))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Yield the reply to a conversation, in one piece."""

        def pieces() -> ChatResponseGen:
            yield _response(self._use(self._reply(_turns(messages))))

        return pieces()

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Do what `stream_chat` does without keeping the event loop."""

        async def pieces() -> ChatResponseAsyncGen:
            yield _response(await self._ause(self._reply(_turns(messages))))

        return pieces()

    def _reply(self, messages: list[Message]) -> Callable[[AutoRegModel], str]:
        """Return what is to be done with the model."""
        return lambda model: self._chat(model).reply(messages, max_new_tokens=self.max_new_tokens)

    def _chat(self, model: AutoRegModel) -> Chat:
        return self._model().keep(Chat, lambda: Chat(model))


def _turns(messages: Sequence[ChatMessage]) -> list[Message]:
    return [_turn(message) for message in messages]


def _turn(message: ChatMessage) -> Message:
    if message.role not in _ROLES:
        raise ValueError(
            f"a message is of the role '{message.role.value}'; it must be the system's, a user's "
            "or an assistant's"
        )
    if not all(isinstance(block, TextBlock) for block in message.blocks):
        raise ValueError("a message holds more than text, which this model cannot read")
    return Message(_ROLES[message.role], message.content or "")


def _response(text: str) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text), delta=text)
