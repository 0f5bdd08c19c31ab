"""The frozen base as an LLM of LlamaIndex, against the model itself."""

from __future__ import annotations

import asyncio
import threading

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
)

from autoreg_rag.chat import Chat, Message
from llama_index.embeddings.autoreg import AutoRegEmbedding
from llama_index.llms.autoreg import AutoRegLLM

TURNS = [Message("system", "Be short."), Message("user", "What is a lambda?")]


@pytest.fixture
def llm(how) -> AutoRegLLM:
    return AutoRegLLM(**how, max_new_tokens=6)


@pytest.fixture
def messages():
    return [ChatMessage(role=MessageRole(role), content=text) for role, text in TURNS]


async def test_every_way_to_ask_gives_the_reply_of_the_base(llm, model, messages):
    expected = Chat(model).reply(TURNS, max_new_tokens=6)
    assert llm.chat(messages).message.content == expected
    assert (await llm.achat(messages)).message.content == expected
    assert "".join(piece.delta for piece in llm.stream_chat(messages)) == expected
    assert [piece.delta async for piece in await llm.astream_chat(messages)] == [expected]
    alone = Chat(model).reply(TURNS[1:], max_new_tokens=6)
    prompt = TURNS[1].text
    assert llm.complete(prompt).text == alone
    assert (await llm.acomplete(prompt)).text == alone
    assert "".join(piece.delta for piece in llm.stream_complete(prompt)) == alone
    assert [piece.delta async for piece in await llm.astream_complete(prompt)] == [alone]


async def test_the_event_loop_goes_on_while_the_model_is_busy(llm, messages):
    is_busy, is_released, answers = threading.Event(), threading.Event(), []
    window = llm.metadata.context_window

    def hold(_):
        is_busy.set()
        answers.append(is_released.wait(60))

    async def streamed(stream):
        return "".join([piece.delta async for piece in await stream])

    holder = threading.Thread(target=llm._use, args=[hold])
    holder.start()
    is_busy.wait(60)
    calls = asyncio.gather(
        llm.achat(messages),
        llm.acomplete("q"),
        streamed(llm.astream_chat(messages)),
        streamed(llm.astream_complete("q")),
    )
    for _ in range(20):
        await asyncio.sleep(0)  # a call that blocks would hold the loop here
    assert llm.metadata.context_window == window
    assert not calls.done()
    is_released.set()
    chat, completion, *streams = await calls
    holder.join()
    assert answers == [True]
    assert streams == [chat.message.content, completion.text]


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage(role=MessageRole.TOOL, content="5"),
        ChatMessage(blocks=[TextBlock(text="What is this?"), ImageBlock(image=b"0")]),
        ChatMessage(blocks=[DocumentBlock(data=b"0")]),
    ],
)
def test_what_it_cannot_read_is_refused(llm, message):
    with pytest.raises(ValueError, match=r"'tool'|more than text"):
        llm.chat([message])


def test_it_writes_with_the_weights_that_embed(llm, how):
    embedding = AutoRegEmbedding(**how)
    assert llm._use(lambda one: one) is embedding._use(lambda one: one)


def test_it_tells_its_window(llm, model):
    assert llm.metadata.context_window == model.backbone.window
    assert llm.metadata.num_output == 6


def test_it_comes_back_from_its_dictionary(llm, messages):
    again = AutoRegLLM.from_dict(llm.to_dict())
    assert again.chat(messages).message.content == llm.chat(messages).message.content
