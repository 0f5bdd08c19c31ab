"""Choices that need no training: pooling, instructions, the longest text, measured one by one.

Run: ``python benchmarks/choices.py ../shared/data/eval`` (add ``--help`` for options).

Each row changes one setting of a model and measures it on the same samples of
retrieval and similarity sets (`autoreg_trainers.probe.Probe`): means of nDCG@10 and of
Spearman's correlation, times 100. A sample is easier than its set, so the figures
compare with each other only. A trained model is at its best with what it was trained
with; the table says by how much.
"""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from samples import add_samples, sampled

from autoreg_rag.model import AutoRegModel


def choices(model: AutoRegModel) -> dict[str, dict[str, Any]]:
    """Return what is varied, by its label."""
    i_next, i_self = model.config.query_instruction, model.config.document_instruction
    return {
        "as saved": {},
        **{
            f"pooling: {pooling}": {"pooling": pooling}
            for pooling in ("mean", "last", "concat")
            if pooling != model.config.pooling
        },
        "I_self for both": {"query_instruction": i_self},
        "I_next for both": {"document_instruction": i_next},
        "both exchanged": {"query_instruction": i_self, "document_instruction": i_next},
        "no instruction": {"query_instruction": "", "document_instruction": ""},
        **{
            f"texts of at most {length} tokens": {"max_length": length}
            for length in (64, 128, 256)
            if length < model.config.max_length
        },
    }


def main() -> None:
    """Measure and print, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_samples(parser, documents=100, pairs=150)
    parser.add_argument("--model", help="folder of the model; by default the default one")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    probe = sampled(options)
    model = AutoRegModel.from_pretrained(options.model)
    print(
        f"{model.name}, {', '.join(probe.sets)}\n\n| setting | nDCG@10 | Spearman |\n|---|---|---|"
    )
    for label, changes in choices(model).items():
        scores = probe(AutoRegModel.from_pretrained(options.model, **changes))
        figures = [scores.get(f"{kind}/mean", float("nan")) for kind in ("retrieval", "sts")]
        print(f"| {label} | {' | '.join(f'{figure:.1f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main()
