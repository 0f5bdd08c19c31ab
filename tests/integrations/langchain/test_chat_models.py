"""The frozen base as a chat model of LangChain, against the model itself."""

from __future__ import annotations

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
)
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
    for pieces in (list(chat.stream(MESSAGES)), [piece async for piece in chat.astream(MESSAGES)]):
        assert {type(piece) for piece in pieces} == {AIMessageChunk}
        assert "".join(piece.text for piece in pieces) == expected


async def test_a_stream_tells_its_pieces_as_events(chat):
    events = [event async for event in chat.astream_events(MESSAGES, version="v2")]
    assert [event["event"] for event in events][:: len(events) - 1] == [
        "on_chat_model_start",
        "on_chat_model_end",
    ]
    pieces = [e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(pieces) == chat.invoke(MESSAGES).content


def test_a_conversation_may_hold_pieces_of_streams_and_roles_by_name(chat):
    streamed = sum(FakeListChatModel(responses=["Good day."]).stream("q"), AIMessageChunk(""))
    pieces = [SystemMessageChunk("Be short."), HumanMessageChunk("Good day."), streamed]
    named = [ChatMessage(turn.text, role=turn.role) for turn in TURNS]
    expected = chat.invoke(MESSAGES).content
    assert chat.invoke([*pieces, MESSAGES[-1]]).content == expected
    assert chat.invoke(named).content == expected


def test_a_reply_ends_before_the_text_that_stops_it(chat):
    reply = str(chat.invoke(MESSAGES).content)
    middle = reply[len(reply) // 2]
    assert chat.invoke(MESSAGES, stop=[middle]).content == reply.partition(middle)[0]
    with pytest.raises(ValueError, match="stop holds an empty text"):
        chat.invoke(MESSAGES, stop=[""])
    with pytest.raises(TypeError, match="stop is 3"):
        chat.invoke(MESSAGES, stop=3)


async def test_a_call_says_how_long_its_reply_is(chat, model):
    longer = Chat(model).reply(TURNS, max_new_tokens=9)
    own = chat.invoke(MESSAGES).content
    assert longer != own
    assert chat.invoke(MESSAGES, max_new_tokens=9, temperature=0.5).content == longer
    assert (await chat.bind(max_new_tokens=9).ainvoke(MESSAGES)).content == longer
    assert chat.bind(max_new_tokens=None).invoke(MESSAGES).content == own
    with pytest.raises(TypeError, match="max_new_tokens is '9'"):
        chat.invoke(MESSAGES, max_new_tokens="9")


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
    with pytest.raises(ValueError, match="'critic'"):
        chat.invoke([ChatMessage("Well done.", role="critic")])
    picture = {"type": "image", "url": "file:///picture.png"}
    with pytest.raises(ValueError, match="more than text"):
        chat.invoke([HumanMessage([{"type": "text", "text": "What is this?"}, picture])])
    with pytest.raises(ValidationError):
        AutoRegChat(**how, temperature=0.5)
