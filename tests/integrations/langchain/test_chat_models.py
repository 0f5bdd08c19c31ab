"""The frozen base as a chat model of LangChain, against the model itself."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import ValidationError

from autoreg_rag.chat import Chat, Message
from langchain_autoreg import AutoRegChat, AutoRegEmbeddings

TURNS = [
    Message("system", "Be short."),
    Message("user", "Good day."),
    Message("assistant", "Good day."),
    Message("user", "What is a lambda?"),
]
MESSAGES = [
    kind(turn.text)
    for kind, turn in zip(
        [SystemMessage, HumanMessage, AIMessage, HumanMessage], TURNS, strict=True
    )
]


@pytest.fixture
def chat(how) -> AutoRegChat:
    return AutoRegChat(**how, max_new_tokens=6)


async def test_every_way_to_ask_gives_the_reply_of_the_base(chat, model):
    expected = Chat(model).reply(TURNS, max_new_tokens=6)
    assert chat.invoke(MESSAGES).content == expected
    assert (await chat.ainvoke(MESSAGES)).content == expected
    assert "".join(piece.text for piece in chat.stream(MESSAGES)) == expected


def test_a_reply_ends_before_the_text_that_stops_it(chat):
    reply = str(chat.invoke(MESSAGES).content)
    middle = reply[len(reply) // 2]
    assert chat.invoke(MESSAGES, stop=[middle]).content == reply.partition(middle)[0]


def test_it_counts_tokens_by_its_own_tokenizer(chat, model):
    expected = model.backbone.tokenize(["What is a lambda?"])[0]
    assert chat.get_token_ids("What is a lambda?") == expected
    assert chat.get_num_tokens("What is a lambda?") == len(expected)


def test_it_writes_with_the_weights_that_embed(chat, how):
    embeddings = AutoRegEmbeddings(**how)
    assert chat._use(lambda one: one) is embeddings._use(lambda one: one)


def test_what_it_cannot_read_is_refused(chat, how):
    with pytest.raises(ValueError, match="'tool'"):
        chat.invoke([ToolMessage("5", tool_call_id="1")])
    picture = {"type": "image", "url": "file:///picture.png"}
    with pytest.raises(ValueError, match="more than text"):
        chat.invoke([HumanMessage([{"type": "text", "text": "What is this?"}, picture])])
    with pytest.raises(ValidationError):
        AutoRegChat(**how, temperature=0.5)
