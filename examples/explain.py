"""Show what a question's vectors and a passage's vectors say, and where a score is from.

Run: ``python examples/explain.py "How do I leave a loop early?"``. It finds and
reranks passages as the other examples do, decodes the vectors of the question and of
the best passages into text, side by side, and lists the parts of the score: the
frozen decoder's likelihood of the passage behind the question's vectors, by itself,
and behind the passage's own vectors. See docs/scores.md for what they mean.
"""

from __future__ import annotations

import textwrap
from itertools import zip_longest
from typing import Annotated

import common
import typer

from autoreg_rag import AutoRegModel, Hit, Index, Reranker, cli
from autoreg_rag.index.sharing import SharedIndex
from autoreg_rag.rerank.likelihoods import Likelihoods
from autoreg_rag.sharing import SharedModel

WIDTH = 46

Hits = Annotated[int, typer.Option(help="Passages to explain.", min=1)]


def side_by_side(left: str, right: str) -> str:
    """Return two texts in two columns."""
    columns = [textwrap.wrap(text, WIDTH) or ["(nothing)"] for text in (left, right)]
    return "\n".join(
        f"    {one:{WIDTH}} | {other}" for one, other in zip_longest(*columns, fillvalue="")
    )


def parts(model: AutoRegModel, question: str, texts: list[str]) -> list[dict[str, float]]:
    """Return the parts of each passage's scores, in nats and in tokens."""
    likelihoods = Likelihoods(model)
    given, tokens = likelihoods.given_query(question, texts)
    return [
        {"log p(d | e_q)": q, "log p(d)": alone, "log p(d | e_d)": own, "tokens": n}
        for q, alone, own, n in zip(
            given, likelihoods.prior(texts), likelihoods.own(texts), tokens, strict=True
        )
    ]


def explain(hit: Hit, found: dict[str, float]) -> str:
    """Return the parts of a hit's score as lines."""
    n = found.pop("tokens")
    given, alone, own = found.values()
    rows = found | {"pmi = log p(d | e_q) - log p(d)": given - alone}
    rows |= {"cda = log p(d | e_q) - log p(d | e_d)": given - own}
    lines = [f"    {'cosine':40} {hit.scores['cosine']:10.4f}"]
    lines += [f"    {f'of {n} tokens':40} {'nats':>10} {'per token':>10}"]
    lines += [f"    {name:40} {nats:10.2f} {nats / n:10.3f}" for name, nats in rows.items()]
    return "\n".join(lines)


def main(
    question: common.Question,
    corpus: common.Corpus = None,
    index: common.IndexFolder = None,
    hits: Hits = 2,
    candidates: common.Candidates = 20,
    max_new_tokens: common.MaxNewTokens = 48,
) -> None:
    """Decode a question's and its best passages' vectors, and take the scores apart."""
    shared = SharedModel()
    place = common.ready_index(question, corpus, index, shared)

    def work(opened: Index) -> None:
        model = opened.model
        (found,) = opened.search([question], max(hits, candidates))
        if not found:
            typer.echo("Nothing was found: the index holds no passages.")
            return
        best = Reranker(model).rerank(question, found, top_n=hits)
        texts = [hit.chunk.text for hit in best]
        asked = model.compress([question], model.config.query_instruction)
        (said,) = model.decode(asked, max_new_tokens=max_new_tokens)
        own = model.decode(model.compress(texts), max_new_tokens=max_new_tokens)
        all_parts = parts(model, question, texts)
        for number, (hit, text, found_parts) in enumerate(
            zip(best, own, all_parts, strict=True), 1
        ):
            chunk = hit.chunk
            typer.echo(f"[{number}] {chunk.source} [{chunk.start}:{chunk.end}]")
            typer.echo(textwrap.indent(chunk.text.strip(), "    ") + "\n")
            typer.echo(side_by_side("THE QUESTION'S VECTORS SAY", "THE PASSAGE'S VECTORS SAY"))
            typer.echo(side_by_side(said, text) + "\n\n" + explain(hit, found_parts) + "\n")

    SharedIndex(place).use(work)  # with the index's own model


if __name__ == "__main__":
    cli.quieten()
    cli.main(main)
