"""Answer a question from a corpus with a runnable chain of LangChain.

Run: ``python examples/qa_langchain.py "How do I leave a loop early?"``. It indexes
Python's language reference, or the folder named after the question, and again only
what has changed; retrieves by vectors and by words, reranks, shows the passages, and
writes an answer with numbered sources. One set of weights embeds, reranks and
answers; ``--llm`` names another chat model, such as
``--llm langchain.chat_models:init_chat_model --llm-options '{"model": "..."}'``.

The corpus counts as not holding the answer when no passage reaches the cosine
``--least``, or when the language model says so. Neither is safe with a small model:
read the passages, which are printed first.
"""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import Any

import common
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough

from autoreg_rag import cli
from autoreg_rag.sharing import SharedModel
from langchain_autoreg import AutoRegChat, AutoRegReranker, AutoRegRetriever

assign = RunnablePassthrough.assign
PROMPT = ChatPromptTemplate.from_template(
    common.RULES + "\n\nPassages:\n{passages}\n\nQuestion: {question}"
)


def numbered(documents: list[Document]) -> str:
    """Return the passages under their numbers, as the language model reads them."""
    return "\n\n".join(
        f"Passage: [{number}]\n{document.page_content}"
        for number, document in enumerate(documents, 1)
    )


def near(documents: list[Document], least: float) -> list[Document]:
    """Return the passages, or none of them if none reaches the least cosine."""
    # What was found by its words alone has no cosine.
    cosines = [one.metadata["scores"].get("cosine", -1) for one in documents]
    return documents if max(cosines, default=-1) >= least else []


def answering(
    retriever: AutoRegRetriever, reranker: AutoRegReranker, writer: Runnable[Any, Any], least: float
) -> Runnable:
    """Return the chain from a question to ``documents`` and ``answer``."""
    write = (
        {"passages": lambda found: numbered(found["documents"]), "question": itemgetter("question")}
        | PROMPT
        | writer
        | StrOutputParser()
    )
    return (
        {"question": RunnablePassthrough(), "documents": retriever | partial(near, least=least)}
        | assign(documents=lambda x: reranker.compress_documents(x["documents"], x["question"]))
        | assign(answer=lambda found: write if found["documents"] else common.NOT_FOUND)
    )


def main(
    question: common.Question,
    corpus: common.Corpus = None,
    index: common.IndexFolder = None,
    passages: common.Passages = 3,
    candidates: common.Candidates = 20,
    least: common.Least = common.LEAST,
    llm: common.LanguageModel = None,
    llm_options: common.LanguageModelOptions = "{}",
    max_new_tokens: common.MaxNewTokens = 96,
) -> None:
    """Answer a question from a corpus, with numbered sources, by LangChain."""
    writer = common.named(llm, llm_options) if llm else AutoRegChat(max_new_tokens=max_new_tokens)
    model = SharedModel()
    place = common.ready_index(question, corpus, index, model)
    with AutoRegRetriever(place=place, k=max(passages, candidates), hybrid=True) as retriever:
        reranker = retriever.index_reranker(top_n=passages)
        found = answering(retriever, reranker, writer, least).invoke(question)
    shown = [(one.metadata, one.page_content) for one in found["documents"]]
    common.print_answer(
        found["answer"],
        [(m["source"], m["start"], m["end"], m["relevance_score"], text) for m, text in shown],
    )


if __name__ == "__main__":
    cli.quieten()
    cli.main(main)
