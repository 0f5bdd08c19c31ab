"""The default model, from raw rows to figures: mine, compress, align, evaluate.

Run: ``python trainers/recipes/default_model.py DATA --evaluate SETS`` (add ``--help``).

DATA is a folder of rows with query, pos and perhaps neg, and perhaps of passages
(``text.jsonl.gz``), SETS a folder of BEIR-layout and STS sets. Each stage is a command of this
project with the settings in ``trainers/configs/smollm2-135m-*.yaml``; one that has ended is
passed over, one that was cut off goes on, so the same line again continues; other settings want
another ``--out``. What is drawn is drawn by seeds.
``--small`` runs the same stages, but for the third and fourth rounds, on a few rows, in
minutes, to see that all is well.

What aligns queries and documents is Conditional Distribution Alignment with InfoNCE and
compression beside it, as in the model that ships, in three rounds, of which the last two are
averaged, and two more from there on, with ``--teacher`` if any is given: the fourth learns from
the first of them, the fifth from all (all-mpnet-base-v2 and all-MiniLM-L6-v2 for the model that
ships). Or, with ``--alignment contrastive``, it is InfoNCE alone; that knows no decoder, so the
bridge is fitted anew after it. The second and third round take two processes; rows that later
rounds' configurations do not name take no part in them, unless they name none of them. On cores
with AVX512-BF16 mining, compression and the first two rounds took 0.03, 0.7, 1 and 2.3 CPU
hours, figures 0.6; the third 2.4 on cores without bfloat16 units: 7 CPU hours. The fourth and
fifth took 7 and 10 minutes of an H100; on CPUs they have not been run.

The model is left in OUT/model, figures in OUT/results.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from autoreg_rag.cli import errors_as_status
from autoreg_rag.evaluate.discovery import load_sets
from autoreg_rag.evaluate.peer import SentenceTransformerPeer
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.average import mean
from autoreg_trainers.data import DataError, Source
from autoreg_trainers.plain_yaml import load_mapping
from autoreg_trainers.training import MODEL_FOLDER, export

CONFIGS = Path(__file__).parents[1] / "configs"
ROUNDS = ["cda", "cda2", "cda3"]
"""Of alignment: names of their folders, and of their settings, ``smollm2-135m-*.yaml``."""

LATER = ["cda4", "cda5"]
"""The rounds after these, from the mean of the last two on."""

LAUNCH = ["accelerate.commands.launch", "--config_file", CONFIGS / "accelerate" / "ddp.yaml", "-m"]
SMALL = [
    *("--max-rows", "120", "--max-steps", "2", "--batch-size", "4"),
    *("--held-back", "4", "--compile", "no", "--token-budget", "4096"),
]

logger = logging.getLogger("recipe")


def config_of(name: str) -> Path:
    """Return the settings of a stage."""
    return CONFIGS / f"smollm2-135m-{name}.yaml"


def run(*command: str | Path) -> None:
    """Run a command of this project; end with its status if it fails."""
    began, cpu = time.monotonic(), os.times()
    status = subprocess.run([sys.executable, "-m", *map(str, command)], check=False).returncode
    now = os.times()
    used = now.children_user + now.children_system - cpu.children_user - cpu.children_system
    minutes = (time.monotonic() - began) / 60
    name = next(part for part in command if str(part).startswith("autoreg"))
    logger.info("%s: %.1f minutes, %.2f CPU hours", name, minutes, used / 3600)
    if status:
        sys.exit(status)


def stage(folder: Path, *command: str | Path) -> None:
    """Run a training that leaves its model below a folder, unless it has done so before."""
    if (folder / MODEL_FOLDER).is_dir():
        logger.info("%s is there already", folder / MODEL_FOLDER)
    else:
        run(*command, "--out", folder, "--resume", "yes")


def sources(config: Path) -> list[str]:
    """Return the sources that a configuration names."""
    settings = {key: value for key, value, _ in load_mapping(config.read_text())}
    return list(settings["sources"])


def shares(config: Path, out: Path) -> list[str]:
    """Return a round's sources with their weights; all that was mined if it names none of it."""
    named = [f"{out}/{source}" for source in sources(config)]
    there = [source for source in named if Path(Source.parse(source).path).is_file()]
    mined = any(source.startswith(f"{out}/mined/") for source in there)
    return there if mined else [f"{out}/mined"]


def near_alike(passages: Path, out: Path, seed: int) -> None:
    """Make near-alike sentences of passages, unless there are none or it has been done."""
    if passages.is_file() and not out.is_file():
        named = map(Source.parse, sources(config_of(LATER[-1])))
        rows = next(int(source.weight) for source in named if source.path == out.name)
        number = ["--rows", str(rows), "--seed", str(seed)]
        run("autoreg_trainers.sentences", passages, "--out", out, *number)


def aligned(options: argparse.Namespace, few: list[str]) -> AutoRegModel:
    """Align in rounds, the later ones from the mean of the two before on."""
    out: Path = options.out

    def going_on(name: str, before: str, number: int) -> list[str | Path]:
        settings = ["--config", config_of(name), "--sources", *shares(config_of(name), out)]
        settings += ["--model", out / before / MODEL_FOLDER]
        return ["autoreg_trainers.cda", *settings, "--seed", str(options.seed + number), *few]

    rounds = ROUNDS[:2] if options.small else ROUNDS  # the third runs the same code
    for number, (before, name) in enumerate(pairwise(rounds), start=1):
        stage(out / name, *LAUNCH, *going_on(name, before, number))
    means = mean([out / name / MODEL_FOLDER for name in rounds[-2:]], [1, 1])
    export(means, out / "mean" / MODEL_FOLDER)
    near_alike(options.data / "text.jsonl.gz", out / "sentences.jsonl.gz", options.seed)
    before = "mean"
    later = LATER[-1:] if options.small else LATER
    for number, name in enumerate(later, start=len(ROUNDS) + 1):
        teachers = options.teacher if name == LATER[-1] else options.teacher[:1]
        taught = ["--teacher", *teachers] if teachers else []
        stage(out / name, *going_on(name, before, number), *taught)
        before = name
    return AutoRegModel.from_pretrained(out / before / MODEL_FOLDER)


def readable(options: argparse.Namespace, few: list[str]) -> AutoRegModel:
    """Fit the bridge anew after InfoNCE."""
    out: Path = options.out
    bridge = ["--config", config_of("bridge"), "--sources", options.data]
    bridge += ["--model", out / "contrastive" / MODEL_FOLDER, "--seed", str(options.seed)]
    stage(out / "bridge", "autoreg_trainers.ic", *bridge, *few)
    return AutoRegModel.from_pretrained(out / "bridge" / MODEL_FOLDER)


def check(options: argparse.Namespace) -> None:
    """Refuse what later stages would refuse after hours."""
    if not options.data.is_dir():
        raise DataError(f"there is no folder {options.data}")
    if options.evaluate:
        load_sets(options.evaluate, limit=1)
    for teacher in options.teacher:
        SentenceTransformerPeer(teacher, device="cpu")


def recipe(options: argparse.Namespace) -> None:
    """Run all stages."""
    check(options)
    out: Path = options.out
    few = SMALL if options.small else []
    seed = ["--seed", str(options.seed)]

    mine = ["--out", out / "mined", "--max-group", "50", "--negatives", "3"]
    run("autoreg_trainers.mine", options.data, *mine)
    ic = ["--config", config_of("ic"), "--sources", options.data]
    stage(out / "ic", "autoreg_trainers.ic", *ic, *seed, *few)
    kind = options.alignment
    first = ["--config", config_of(kind), "--sources", out / "mined"]
    first += ["--model", out / "ic" / MODEL_FOLDER]
    stage(out / kind, f"autoreg_trainers.{kind}", *first, *seed, *few)
    model = aligned(options, few) if kind == "cda" else readable(options, few)
    export(model, out / MODEL_FOLDER)
    if options.evaluate:
        figures = ["--model", out / MODEL_FOLDER, "--out", out / "results.md"]
        figures += ["--limit", "20"] if options.small else []
        run("autoreg_rag.evaluate", options.evaluate, *figures)


def main() -> None:
    """Read the options, and run all stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of training rows")
    parser.add_argument("--evaluate", type=Path, help="folder of evaluation sets")
    parser.add_argument(
        "--out", type=Path, help="folder of all stages; runs/default-model, with --small -small"
    )
    parser.add_argument("--alignment", choices=["cda", "contrastive"], default="cda")
    parser.add_argument(
        "--teacher",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="sentence-transformers models for the later rounds",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a few rows and steps only")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    if options.teacher and options.alignment != "cda":
        parser.error("--teacher is for --alignment cda")
    options.out = options.out or Path("runs/default-model" + "-small" * options.small)
    with errors_as_status():
        recipe(options)


if __name__ == "__main__":
    main()
