"""The frozen base of an AutoRegEmbed model as an LLM of LlamaIndex."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from llama_index.core.base.llms.generic_utils import messages_to_prompt
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
from llama_index.core.bridge.pydantic import Field, field_validator
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import default_completion_to_prompt
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.types import Model, TokenAsyncGen

from autoreg_rag.backbone import Backbone
from autoreg_rag.chat import MAX_NEW_TOKENS, Chat, Message, reply_options
from autoreg_rag.errors import ModelError
from autoreg_rag.model import AutoRegModel
from llama_index.embeddings.autoreg.settings import ModelSettings

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}

# A template may write a system's message of its own where there is none.
_FRAMES = ([Message("user", "")], [Message("system", ""), Message("user", "")])


class AutoRegLLM(ModelSettings, CustomLLM):
    """Writes with the language model that an `AutoRegEmbedding` embeds with.

    The adapter is off, so it is the base as it was made, and with the settings of
    an `AutoRegEmbedding` it shares that one's weights. Replies are greedy. A stream
    is one piece, the whole reply.

    The other fields are those of `ModelSettings` and of LlamaIndex's `LLM`, but for
    ``messages_to_prompt`` and ``completion_to_prompt``: the model's own template makes
    the prompt. Of the keywords of a call, ``max_new_tokens`` and ``stop``, a text or
    several that end the reply, count.

    Parameters
    ----------
    max_new_tokens
        Where a reply stops if the model does not end it.

    Raises
    ------
    pydantic.ValidationError
        An argument is unknown or wrong.
    TypeError, ValueError
        When used: a message has another role than the system's, a user's or an
        assistant's, or holds more than text; or a keyword of the call is wrong.
    ModelError
        When used: the model cannot be loaded, or the prompt does not fit its window.
    """

    max_new_tokens: int = Field(
        default=MAX_NEW_TOKENS, gt=0, description="The most tokens of a reply."
    )

    @field_validator("messages_to_prompt", "completion_to_prompt", mode="before")
    @classmethod
    def _by_the_template(cls, function: Any) -> Any:
        # A pickle holds LlamaIndex's own, which stand for none.
        if function not in (None, messages_to_prompt, default_completion_to_prompt):
            raise ValueError("the model's own chat template makes the prompt: leave it out")
        return function

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps of the LLM carry."""
        return "AutoRegLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What the window leaves beside the template, and the longest reply.

        The model is loaded if need be.
        """
        # LlamaIndex looks before every call: what is known must not wait for the model.
        room = self._model().keep(
            (Chat, "room"), lambda: self._use(lambda model: _room(self._chat(model)))
        )
        return LLMMetadata(
            context_window=room,
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

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text, by the model's own tokenizer.

        As ``Settings.tokenizer`` it makes LlamaIndex's prompts fit the window. It loads
        the model if need be, and does not wait for one that is busy.
        """
        backbone = self._model().keep(Backbone, lambda: self._use(lambda model: model.backbone))
        return backbone.tokenize([text])[0]

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Do what `predict` does without keeping the event loop."""
        await self._know_the_model()
        return await super().apredict(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """Do what `stream` does without keeping the event loop."""
        await self._know_the_model()
        return await super().astream(prompt, **prompt_args)

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Do what `structured_predict` does without keeping the event loop."""
        await self._know_the_model()
        found: Model = await super().astructured_predict(
            output_cls, prompt, llm_kwargs, **prompt_args
        )
        return found

    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """Do what `stream_structured_predict` does without keeping the event loop."""
        await self._know_the_model()
        return await super().astream_structured_predict(
            output_cls, prompt, llm_kwargs, **prompt_args
        )

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Reply to a prompt, as to a user's message."""
        return CompletionResponse(text=self._use(self._reply([Message("user", prompt)], kwargs)))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Do what `complete` does without keeping the event loop."""
        text = await self._ause(self._reply([Message("user", prompt)], kwargs))
        return CompletionResponse(text=text)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Yield the reply to a prompt, in one piece."""

        def pieces() -> CompletionResponseGen:
            text = self._use(self._reply([Message("user", prompt)], kwargs))
            yield CompletionResponse(text=text, delta=text)

        return pieces()

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Do what `stream_complete` does without keeping the event loop."""

        async def pieces() -> CompletionResponseAsyncGen:
            text = await self._ause(self._reply([Message("user", prompt)], kwargs))
            yield CompletionResponse(text=text, delta=text)

        return pieces()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Reply to a conversation."""
        return _response(self._use(self._reply(_turns(messages), kwargs)))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Do what `chat` does without keeping the event loop."""
        return _response(await self._ause(self._reply(_turns(messages), kwargs)))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Yield the reply to a conversation, in one piece."""

        def pieces() -> ChatResponseGen:
            yield _response(self._use(self._reply(_turns(messages), kwargs)))

        return pieces()

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Do what `stream_chat` does without keeping the event loop."""

        async def pieces() -> ChatResponseAsyncGen:
            yield _response(await self._ause(self._reply(_turns(messages), kwargs)))

        return pieces()

    async def _know_the_model(self) -> None:
        """Wait for `metadata`, which LlamaIndex reads on the event loop."""
        await self._ause(lambda _: self.metadata)

    def _reply(
        self, messages: list[Message], asked: Mapping[str, Any]
    ) -> Callable[[AutoRegModel], str]:
        """Return what is to be done with the model, by the keywords of the call."""
        options = reply_options(asked, self.max_new_tokens)
        return lambda model: self._chat(model).reply(messages, **options)

    def _chat(self, model: AutoRegModel) -> Chat:
        return self._model().keep(Chat, lambda: Chat(model))


def _room(chat: Chat) -> int:
    """Return the most tokens that a prompt's own text and its reply can have."""
    frames = []
    for messages in _FRAMES:
        with suppress(ModelError):  # some templates refuse a system's message
            frames.append(len(chat.ids(messages)))
    return chat.window - max(frames, default=0)


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
