"""Conversation with the frozen base: the language model that a model already holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from tokenizers import Tokenizer

from autoreg_rag.errors import ModelError, first_line
from autoreg_rag.model import AutoRegModel

MAX_NEW_TOKENS = 256
"""The longest reply, if no other length is asked for."""

_PLACE = "\ue000{}\ue001"
"""Stands for a message's text while the template is filled; of private use in Unicode."""


class Message(NamedTuple):
    """A turn of a conversation; the role is ``system``, ``user`` or ``assistant``."""

    role: str
    text: str


class Chat:
    """Replies of the base with its adapter off, in the format that it was taught.

    That format is the tokenizer's chat template; a base without one reads the
    messages on end. What a message spells stays text: passages cannot end their
    turn, or speak in another role, by holding a special token's name.

    Parameters
    ----------
    model
        Whose base replies. Its weights are used, not copied.
    """

    def __init__(self, model: AutoRegModel) -> None:
        self._model = model

    @property
    def window(self) -> int:
        """The most tokens that a conversation and its reply can have."""
        return self._model.backbone.window

    @torch.inference_mode()
    def reply(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        stop: str | Sequence[str] | None = None,
    ) -> str:
        """Return the reply to a conversation, generated greedily.

        Parameters
        ----------
        messages
            The conversation so far, at least one message.
        max_new_tokens
            Where to stop if the model does not.
        stop
            Texts, before the first of which the reply ends.

        Raises
        ------
        TypeError
            `max_new_tokens` is no int, or `stop` neither a text nor a list of texts.
        ValueError
            There is no message, `max_new_tokens` is below 1, or a text of `stop` is empty.
        ModelError
            The conversation and its reply do not fit the window, or the template
            refuses the conversation.
        """
        if not messages:
            raise ValueError("there is no message to reply to")
        if not isinstance(max_new_tokens, int):
            raise TypeError(f"max_new_tokens is {max_new_tokens!r}; it must be an int")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more")
        ends = _checked(stop)
        backbone = self._model.backbone
        ids = self.ids(messages)
        if len(ids) + max_new_tokens > self.window:
            raise ModelError(
                f"the conversation has {len(ids)} tokens; with {max_new_tokens} for the reply that "
                f"is more than the model's {self.window}: give it fewer or shorter passages"
            )
        inputs = torch.tensor([ids], device=backbone.device)
        language_model: Any = backbone.language_model
        with self._model.as_decoder():
            output = language_model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=max_new_tokens,
            )
        text = backbone.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
        text = str(text).strip()
        for end in ends:
            text = text.partition(end)[0]
        return text

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation, up to where the reply begins."""
        backbone = self._model.backbone
        tokenizer = backbone.tokenizer
        texts = [message.text for message in messages]
        if tokenizer.chat_template is None:
            bos = tokenizer.bos_token_id
            return [bos] * (bos is not None) + backbone.tokenize(["\n\n".join(texts)])[0]
        turns = [
            {"role": message.role, "content": _PLACE.format(place)}
            for place, message in enumerate(messages)
        ]
        try:
            frame = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ModelError(
                f"{backbone.name} refuses the conversation: {first_line(error)}"
            ) from error
        # Parts of the frame and numbers of messages take turns.
        parts = re.split(_PLACE.format(r"(\d+)"), str(frame))
        ids: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                ids += backbone.tokenize([texts[int(part)]])[0]
            else:
                ids += self._frame_tokenizer.encode(part, add_special_tokens=False).ids
        return ids

    @cached_property
    def _frame_tokenizer(self) -> Tokenizer:
        """A tokenizer that knows special tokens by name, which the backbone's does not."""
        tokenizer = Tokenizer.from_str(self._model.backbone.tokenizer.backend_tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return tokenizer


def reply_options(asked: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """Return the options of `Chat.reply` by the keywords of a framework's call.

    Parameters
    ----------
    asked
        Keywords, of which ``max_new_tokens`` and ``stop`` count; None is as good as none.
    longest
        ``max_new_tokens`` where the call does not say.
    """
    tokens = asked.get("max_new_tokens")
    return {"max_new_tokens": longest if tokens is None else tokens, "stop": asked.get("stop")}


def _checked(stop: object) -> list[str]:
    """Return the texts that end a reply."""
    ends = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(ends, Sequence) or not all(isinstance(end, str) for end in ends):
        raise TypeError(f"stop is {stop!r}; it must be a text or a list of texts")
    if "" in ends:
        raise ValueError("stop holds an empty text, which cannot end a reply")
    return list(ends)
