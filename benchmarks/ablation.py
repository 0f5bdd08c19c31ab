"""Choices that need training: k, rank, tasks, what aligns; at a scale of minutes each.

Run: ``python benchmarks/ablation.py ROWS SETS`` (add ``--help`` for options), ROWS a folder of
``autoreg_trainers.mine``, SETS one of retrieval and similarity sets.

Each run compresses for a few steps from the default base, aligns for a few more on rows of the
same sources, and is measured on samples of the sets (`autoreg_trainers.probe.Probe`): means of
nDCG@10 and of Spearman's correlation, times 100. InfoNCE alone takes
50 steps in place of 20, which is 1.2 to 1.4 times the processor time. Seeds are those of the
alignment. What has ended is not run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from samples import add_samples, sampled

from autoreg_rag.files import write_whole
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.probe import Probe
from autoreg_trainers.training import MODEL_FOLDER

SHORT = [
    *("nli_triplets", "wikiqa_train", "medical_question_pairs", "stackexchange_small"),
    *("wordnet_glosses", "trecqa_wang_train", "nq_oracle", "rqe_medical_questions"),
    *("squadshifts_new_wiki", "claim_evidence"),
]
"""Sources whose texts are short: questions, sentences, glosses, one passage of Wikipedia."""

BOTH = ["--max-tokens", "40", "--batch-size", "16", "--compile", "no", "--device", "cpu"]
BOTH += ["--dtype", "float32", "--eval-steps", "0", "--save-minutes", "4", "--resume", "yes"]
COMPRESSION = ["--max-rows", "3000", "--max-steps", "30", "--bridge-rows", "768"]
COMPRESSION += ["--learning-rate", "3e-4", "--neck-learning-rate", "1e-3", "--held-back", "48"]
ALIGNMENT = ["--negatives", "1", "--batches", "source", "--held-back", "32"]
ALIGNMENT += ["--learning-rate", "2e-4", "--neck-learning-rate", "3e-4", "--token-budget", "4096"]
CDA = ["--max-target", "16", "--reduction", "mean", "--beta", "3", "--tau", "0.1"]
CDA += ["--max-rows", "560", "--max-steps", "20"]
BESIDE = ["--contrastive-weight", "20", "--contrastive-tau", "0.05", "--compression-weight", "10"]

NOTHING = "compression alone"
OBJECTIVES = {
    NOTHING: [],
    "CDA, InfoNCE, compression": ["autoreg_trainers.cda", *CDA, *BESIDE],
    "CDA alone": ["autoreg_trainers.cda", *CDA],
    "InfoNCE alone": ["autoreg_trainers.contrastive", "--max-rows", "1200", "--max-steps", "50"],
}
"""Commands and options of what comes after compression, by what the table calls it."""


@dataclass(frozen=True)
class Run:
    """One line of the table."""

    k: int = 5
    rank: int = 32
    compression: str = ""
    """Further options of the compression, as on a command line."""
    objective: str = "CDA, InfoNCE, compression"
    alignment: str = ""
    """Further options of what follows."""
    seed: int = 0

    @property
    def start(self) -> str:
        """The folder of its compression, which runs share whatever their seed."""
        return f"ic-k{self.k}-r{self.rank}{_slug(self.compression)}"

    @property
    def name(self) -> str:
        """Its own folder."""
        objective = self.objective.lower().replace(", ", "-").replace(" ", "-")
        further = _slug(self.compression) + _slug(self.alignment)
        return f"{objective}-k{self.k}-r{self.rank}{further}-s{self.seed}"

    @property
    def changed(self) -> str:
        """Its further options, as the table names them."""
        parts = [f"compression {self.compression}"] if self.compression else []
        return ", ".join([*parts, self.alignment] if self.alignment else parts)


def _slug(options: str) -> str:
    """Return options as part of a folder's name."""
    return "".join(f"-{word.lstrip('-')}" for word in options.split())


BASELINE = Run()
RUNS = [
    BASELINE,
    replace(BASELINE, objective="InfoNCE alone"),
    replace(BASELINE, seed=1),
    replace(BASELINE, objective="InfoNCE alone", seed=1),
    replace(BASELINE, k=1),
    replace(BASELINE, k=8),
    replace(BASELINE, objective=NOTHING),
    replace(BASELINE, objective="CDA alone"),
    replace(BASELINE, alignment="--form log_sigmoid"),
    replace(BASELINE, alignment="--form kl"),
    replace(BASELINE, compression="--tasks answer=0.9 reconstruct=0.1"),
    replace(BASELINE, compression="--tasks answer=0.1 reconstruct=0.9"),
    replace(BASELINE, rank=8),
    replace(BASELINE, alignment="--contrastive-tau 0.02"),
    replace(BASELINE, alignment="--beta 10"),
    replace(BASELINE, alignment="--reduction sum --beta 0.1"),
    replace(
        BASELINE,
        compression="--tuning full --learning-rate 1e-4",
        alignment="--tuning full --learning-rate 5e-5",
    ),
    replace(BASELINE, compression="--distillation 0.5"),
    replace(BASELINE, alignment="--form js"),
    replace(BASELINE, alignment="--contrastive-tau 0.1"),
    replace(BASELINE, alignment="--beta 1"),
]


def train(out: Path, *command: str) -> float:
    """Run a training to its end, unless it has ended; give its processor minutes."""
    clock = out / "minutes.json"
    if clock.is_file():
        return float(json.loads(clock.read_text()))
    before = os.times()
    subprocess.run([sys.executable, "-m", *command, "--out", str(out)], check=True)
    after = os.times()
    spent = after.children_user + after.children_system
    minutes = (spent - before.children_user - before.children_system) / 60
    write_whole(clock, json.dumps(minutes).encode())
    return minutes


def measured(run: Run, rows: Path, out: Path, probe: Probe) -> dict[str, float]:
    """Train and measure; give minutes of both trainings and scores."""
    sources = ["--sources", *(str(rows / f"{name}.jsonl.gz") for name in SHORT)]
    common = [*BOTH, *sources]
    shape = ["--num-compress-tokens", str(run.k), "--lora-rank", str(run.rank)]
    start = out / run.start
    command = ["autoreg_trainers.ic", *COMPRESSION, *shape, *common, *run.compression.split()]
    figures = {"compression": train(start, *command)}
    figures["alignment"] = 0.0
    folder = start
    if run.objective != NOTHING:
        folder = out / run.name
        command = [*OBJECTIVES[run.objective], "--model", str(start / MODEL_FOLDER)]
        command += ["--seed", str(run.seed), *ALIGNMENT, *common, *run.alignment.split()]
        figures["alignment"] = train(folder, *command)
    saved = folder / "scores.json"
    if not saved.is_file():
        model = AutoRegModel.from_pretrained(folder / MODEL_FOLDER)
        write_whole(saved, json.dumps(probe(model), indent=2).encode())
    return figures | json.loads(saved.read_text())


def main() -> None:
    """Train, measure and print, a line at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, help="folder of mined rows")
    add_samples(parser, documents=60, pairs=100)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    probe = sampled(options)
    print(f"{', '.join(probe.sets)}\n")
    print("| k | rank | objective | changed | seed | minutes | nDCG@10 | Spearman |")
    print("|---|---|---|---|---|---|---|---|")
    for run in RUNS:
        found = measured(run, options.rows, options.out, probe)
        minutes = f"{found['compression']:.0f} + {found['alignment']:.0f}"
        scores = [f"{found[f'{kind}/mean']:.1f}" for kind in ("retrieval", "sts")]
        line = [run.k, run.rank, run.objective, run.changed, run.seed, minutes, *scores]
        print(f"| {' | '.join(map(str, line))} |", flush=True)


if __name__ == "__main__":
    main()
