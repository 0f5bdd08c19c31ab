"""Answer a question from a corpus with a query engine of LlamaIndex.

Run: ``python examples/qa_llama_index.py "How do I leave a loop early?"``. It indexes
Python's language reference, or the folder named after the question, and again only
what has changed; retrieves, reranks, shows the passages, and writes an answer with
numbered sources. One set of weights embeds, reranks and answers; ``--llm`` names
another language model of LlamaIndex.

The corpus counts as not holding the answer when no passage reaches the cosine
``--least``, or when the language model says so. Neither is safe with a small model:
read the passages, which are printed first.
"""

from __future__ import annotations

import common
from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from autoreg_rag import cli
from autoreg_rag.sharing import SharedModel
from llama_index.llms.autoreg import AutoRegLLM
from llama_index.postprocessor.autoreg_rerank import AutoRegRerank
from llama_index.vector_stores.autoreg import AutoRegVectorStore

PROMPT = PromptTemplate(common.RULES + "\n\nPassages:\n{context_str}\n\nQuestion: {query_str}")


class Numbers(BaseNodePostprocessor):
    """Gives each passage its number, which the language model reads before the text."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        for number, item in enumerate(nodes, 1):
            item.node.metadata["Passage"] = f"[{number}]"
        return nodes


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
    """Answer a question from a corpus, with numbered sources, by LlamaIndex."""
    writer = common.named(llm, llm_options) if llm else AutoRegLLM(max_new_tokens=max_new_tokens)
    model = SharedModel()
    with AutoRegVectorStore.from_index(common.ready_index(question, corpus, index, model)) as store:
        embedding = store.embedding()
        rerank = AutoRegRerank(model_name=embedding.model_name, top_n=passages)
        opened = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
        engine = opened.as_query_engine(
            llm=writer,
            similarity_top_k=max(passages, candidates),
            node_postprocessors=[
                SimilarityPostprocessor(similarity_cutoff=least),
                rerank,
                Numbers(),
            ],
            text_qa_template=PROMPT,
        )
        response = engine.query(question)
    nodes = [(item.node, item.score) for item in response.source_nodes]
    common.print_answer(
        str(response),
        [
            (node.metadata["source"], node.start_char_idx, node.end_char_idx, score, node.text)
            for node, score in nodes
        ],
    )


if __name__ == "__main__":
    cli.quieten()
    cli.main(main)
