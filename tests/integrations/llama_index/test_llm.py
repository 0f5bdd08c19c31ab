"""The frozen base as an LLM of LlamaIndex, against the model itself."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import shutil
import threading
import weakref

import llama_index.core
import pytest
from llama_index.core import Document, PromptTemplate, Settings, SummaryIndex
from llama_index.core.base.llms.types import (
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
)
from llama_index.core.instrumentation.events.llm import LLMChatStartEvent
from pydantic import BaseModel, ValidationError

from autoreg_rag.chat import Chat, Message
from autoreg_rag.model import AutoRegModel
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


def test_its_model_stays_loaded_from_call_to_call(how):
    llm, models = AutoRegLLM(**how | {"max_length": 78}, max_new_tokens=2), []

    def answer(model):
        models.append(weakref.ref(model))
        return llm._chat(model).reply([Message("user", "q")], max_new_tokens=2)

    assert llm._use(answer) == llm.complete("q").text
    gc.collect()
    assert llm._use(lambda model: model) is models[0]()


def test_it_writes_with_the_weights_that_embed(llm, how):
    embedding = AutoRegEmbedding(**how)
    assert llm._use(lambda one: one) is embedding._use(lambda one: one)


async def test_a_model_that_is_not_known_yet_does_not_hold_the_event_loop(how):
    # Settings that no other test has, so that nobody has asked for the window yet.
    how = how | {"max_length": 77}
    holder, fresh = AutoRegLLM(**how), AutoRegLLM(**how, max_new_tokens=2)
    is_busy, is_released, answers = threading.Event(), threading.Event(), []

    def hold(_):
        is_busy.set()
        answers.append(is_released.wait(60))

    async def streamed(stream):
        return "".join([piece async for piece in await stream])

    class Animal(BaseModel):
        name: str

    thread = threading.Thread(target=holder._use, args=[hold])
    thread.start()
    is_busy.wait(60)
    prompt = PromptTemplate("What is a lambda?")
    calls = asyncio.gather(
        fresh.apredict(prompt),
        streamed(fresh.astream(prompt)),
        fresh.astructured_predict(Animal, prompt),
        streamed(fresh.astream_structured_predict(Animal, prompt)),
        return_exceptions=True,  # the tiny model writes no JSON
    )
    for _ in range(20):
        await asyncio.sleep(0)  # a call that blocks would hold the loop here
    assert not calls.done()
    is_released.set()
    predicted, stream, *_ = await calls
    thread.join()
    assert answers == [True]
    assert predicted == stream == fresh.complete("What is a lambda?").text


def test_what_one_knows_of_a_model_another_need_not_wait_for(llm, how):
    known, ids = llm.metadata, llm.tokenize("What is a lambda?")
    found = []
    other = AutoRegLLM(**how, max_new_tokens=6)

    def ask():
        found.append((other.metadata, other.tokenize("What is a lambda?")))

    def hold(_):
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(60)

    llm._use(hold)
    assert found == [(known, ids)]


SPEAKERS = (
    "{% if messages[0].role != 'system' %}system: Be a helpful assistant of many words.\n"
    "{% endif %}{% for one in messages %}{{ one.role }}: {{ one.content }}\n{% endfor %}assistant:"
)
NO_SYSTEM = (
    "{% for one in messages %}{% if one.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{{ one.content }}\n{% endfor %}"
)


@pytest.fixture(scope="module")
def templated(tiny_folder, tmp_path_factory):
    """Give a function that makes a tiny model with a chat template and a longer window."""

    def make(template):
        folder = tmp_path_factory.mktemp("templated") / "model"
        shutil.copytree(tiny_folder, folder)
        (folder / "chat_template.jinja").write_text(template)
        config = json.loads((folder / "config.json").read_text())
        config["max_position_embeddings"] = 2048
        (folder / "config.json").write_text(json.dumps(config))
        return {"model_name": str(folder), "dtype": "float32", "device": "cpu"}

    return make


@pytest.mark.parametrize("template", [SPEAKERS, NO_SYSTEM])
def test_its_window_is_what_the_template_leaves(templated, template):
    how = templated(template)
    metadata = AutoRegLLM(**how, max_new_tokens=6).metadata
    chat = Chat(AutoRegModel.from_pretrained(how.pop("model_name"), **how))
    frame = len(chat.ids([Message("user", "")]))
    if template == SPEAKERS:
        assert frame > len(chat.ids([Message("system", ""), Message("user", "")]))
    assert metadata.context_window == 2048 - frame
    assert metadata.num_output == 6


def test_it_counts_tokens_by_its_own_tokenizer(llm, model):
    assert llm.tokenize("Was ist Brot?") == model.backbone.tokenize(["Was ist Brot?"])[0]


GERMAN = (
    "Die Bäckerei an der Königstraße öffnet frühmorgens, während die Nachbarschaft schläft. "
    "Sauerteigbrot benötigt außer Roggenmehl, Wasser und Salz nur Geduld und Fingerspitzengefühl. "
)


@pytest.mark.parametrize("mode", ["compact", "tree_summarize"])
def test_prompts_packed_by_its_tokenizer_fit_the_window(templated, monkeypatch, events, mode):
    monkeypatch.setattr(llama_index.core, "global_tokenizer", None)
    llm = AutoRegLLM(**templated(SPEAKERS), max_new_tokens=8)
    Settings.tokenizer = llm.tokenize
    index = SummaryIndex.from_documents([Document(text=GERMAN * 40)])
    engine = index.as_query_engine(llm=llm, response_mode=mode)
    assert isinstance(engine.query("Was braucht ein Brot?").response, str)
    asked = [event for event in events if isinstance(event, LLMChatStartEvent)]
    prompts = [[one.content for one in event.messages] for event in asked]
    assert len(prompts) > 1
    longest = max(sum(len(llm.tokenize(text)) for text in texts) for texts in prompts)
    assert 1024 < longest <= llm.metadata.context_window - 8


def test_a_call_says_how_long_a_reply_is_and_what_ends_it(llm, model, messages):
    longer = Chat(model).reply(TURNS, max_new_tokens=9)
    assert llm.chat(messages, max_new_tokens=9, temperature=0.5).message.content == longer
    middle = longer[len(longer) // 2]
    for stop in (middle, [middle]):
        reply = llm.chat(messages, max_new_tokens=9, stop=stop).message.content
        assert reply == longer.partition(middle)[0] != longer
    with pytest.raises(ValueError, match="stop holds an empty text"):
        llm.complete("q", stop=[""])
    with pytest.raises(TypeError, match="stop is 3"):
        llm.complete("q", stop=3)
    with pytest.raises(TypeError, match="max_new_tokens is '9'"):
        llm.complete("q", max_new_tokens="9")
    unsaid = llm.chat(messages, max_new_tokens=None, stop=None)
    assert unsaid.message.content == Chat(model).reply(TURNS, max_new_tokens=6) != longer


def test_a_function_that_would_not_be_used_is_refused(llm, messages):
    for name in ("messages_to_prompt", "completion_to_prompt"):
        with pytest.raises(ValidationError, match=f"{name}\n.*template makes the prompt"):
            AutoRegLLM(**{name: str})
        assert getattr(AutoRegLLM(**{name: None}), name)  # LlamaIndex's own
    again = pickle.loads(pickle.dumps(llm))  # noqa: S301 - made here
    assert again.chat(messages).message.content == llm.chat(messages).message.content


def test_it_comes_back_from_its_dictionary(llm, messages):
    again = AutoRegLLM.from_dict(llm.to_dict())
    assert again.chat(messages).message.content == llm.chat(messages).message.content
