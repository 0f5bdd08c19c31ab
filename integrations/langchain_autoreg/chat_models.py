"""The frozen base of an AutoRegEmbed model as a chat model of LangChain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import ConfigDict, Field

from autoreg_rag.chat import MAX_NEW_TOKENS, Chat, Message
from autoreg_rag.model import AutoRegModel
from langchain_autoreg.settings import ModelSettings

_ROLES = {"system": "system", "human": "user", "ai": "assistant"}


class AutoRegChat(ModelSettings, BaseChatModel):
    """Writes with the language model that an `AutoRegEmbeddings` embeds with.

    The adapter is off, so it is the base as it was made, and with the settings of
    an `AutoRegEmbeddings` it shares that one's weights. Replies are greedy.

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
    ValueError
        When used: a message is neither the system's, a human's nor an AI's, or holds
        more than text.
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
        return _result(self._use(self._reply(messages)), stop)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(await self._ause(self._reply(messages)), stop)

    def _reply(self, messages: Sequence[BaseMessage]) -> Callable[[AutoRegModel], str]:
        """Return what is to be done with the model."""
        turns = [_turn(message) for message in messages]

        def reply(model: AutoRegModel) -> str:
            chat = self._model().keep(Chat, lambda: Chat(model))
            return chat.reply(turns, max_new_tokens=self.max_new_tokens)

        return reply


def _turn(message: BaseMessage) -> Message:
    if message.type not in _ROLES:
        raise ValueError(f"a message is of type {message.type!r}; it must be system, human or ai")
    blocks = message.content_blocks
    if not all(block["type"] == "text" for block in blocks):
        raise ValueError("a message holds more than text, which this model cannot read")
    return Message(_ROLES[message.type], str(message.text))


def _result(text: str, stop: list[str] | None) -> ChatResult:
    """Return a reply as far as the first of the texts that stop it."""
    for end in stop or ():
        text = text.partition(end)[0]
    return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])
