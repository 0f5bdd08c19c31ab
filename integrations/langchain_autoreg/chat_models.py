"""The frozen base of an AutoRegEmbed model as a chat model of LangChain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field

from autoreg_rag.chat import MAX_NEW_TOKENS, Chat, Message, reply_options
from autoreg_rag.model import AutoRegModel
from langchain_autoreg.settings import ModelSettings

_ROLES: dict[type[BaseMessage], str] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
}


class AutoRegChat(ModelSettings, BaseChatModel):
    """Writes with the language model that an `AutoRegEmbeddings` embeds with.

    The adapter is off, so it is the base as it was made, and with the settings of
    an `AutoRegEmbeddings` it shares that one's weights. Replies are greedy. A stream is
    one piece, the whole reply. Of the keywords of a call, ``max_new_tokens`` and
    ``stop`` count.

    The other parameters are those of `AutoRegEmbeddings` and of LangChain's
    `BaseChatModel`.

    Parameters
    ----------
    max_new_tokens
        Where a reply stops if the model does not end it.

    Raises
    ------
    pydantic.ValidationError
        An argument is unknown or wrong.
    TypeError, ValueError
        When used: a message is neither the system's, a human's nor an AI's, or holds
        more than text; or a keyword of the call is wrong.
    ModelError
        When used: the model cannot be loaded, or the prompt does not fit its window.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    max_new_tokens: int = Field(default=MAX_NEW_TOKENS, gt=0)

    @property
    def _llm_type(self) -> str:
        return "autoreg"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "max_new_tokens": self.max_new_tokens,
            **self.load_settings(),
        }

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids of a text, by the model's own tokenizer."""
        return self._use(lambda model: model.backbone.tokenize([text])[0])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(self._use(self._reply(messages, stop, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(await self._ause(self._reply(messages, stop, kwargs)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        text = self._use(self._reply(messages, stop, kwargs))
        chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
        if run_manager is not None:
            run_manager.on_llm_new_token(text, chunk=chunk)
        yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        text = await self._ause(self._reply(messages, stop, kwargs))
        chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
        if run_manager is not None:
            await run_manager.on_llm_new_token(text, chunk=chunk)
        yield chunk

    def _reply(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, asked: Mapping[str, Any]
    ) -> Callable[[AutoRegModel], str]:
        """Return what is to be done with the model, by the keywords of the call."""
        turns = [_turn(message) for message in messages]
        options = reply_options({**asked, "stop": stop}, self.max_new_tokens)

        def reply(model: AutoRegModel) -> str:
            chat = self._model().keep(Chat, lambda: Chat(model))
            return chat.reply(turns, **options)

        return reply


def _turn(message: BaseMessage) -> Message:
    role = _role(message)
    blocks = message.content_blocks
    if not all(block["type"] == "text" for block in blocks):
        raise ValueError("a message holds more than text, which this model cannot read")
    return Message(role, str(message.text))


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage) and message.role in _ROLES.values():
        return message.role
    for kind, role in _ROLES.items():
        if isinstance(message, kind):  # a piece of a stream is one, too
            return role
    name = message.role if isinstance(message, ChatMessage) else message.type
    raise ValueError(f"a message is by {name!r}; it must be by the system, a human or an AI")


def _result(text: str) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])
