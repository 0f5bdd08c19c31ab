"""The training commands: as a user starts them, in this process, or in others to be killed."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from autoreg_rag import cli
from autoreg_trainers import arguments
from autoreg_trainers.settings import (
    AlignmentTrainingSettings,
    CompressionSettings,
    ContrastiveSettings,
)
from autoreg_trainers.trainer import WEIGHTS_FILE
from tests import commands
from tests.forkserver import processes

SHARED_ROWS = Path(__file__).parents[3] / "shared" / "data" / "train" / "nli_triplets.jsonl.gz"
SETTINGS = {
    "ic": CompressionSettings,
    "cda": AlignmentTrainingSettings,
    "contrastive": ContrastiveSettings,
    "reference": AlignmentTrainingSettings,
}


def short_rows(characters: int) -> Iterator[dict[str, Any]]:
    """Yield rows of short texts, none of which comes a second time: real ones where they are."""
    seen: set[str] = set()
    for query, positive, negative in _texts():
        texts = {query, positive, negative}
        if len(texts) == 3 and not seen & texts and max(map(len, texts)) < characters:
            seen |= texts
            yield {"query": query, "pos": positive, "neg": [negative]}


def _texts() -> Iterator[tuple[str, str, str]]:
    if SHARED_ROWS.is_file():
        with gzip.open(SHARED_ROWS, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                if row["neg"]:
                    yield row["query"], row["pos"], row["neg"][0]
    else:
        sentences = re.findall(r"[A-Z][^.*`|:]{15,}\.", " ".join(topics.values()))
        sentences = [" ".join(sentence.split()) for sentence in sentences]
        yield from zip(sentences[::3], sentences[1::3], sentences[2::3], strict=False)


def flags(**settings: Any) -> list[str]:
    """Return settings as options, with those that all small runs share."""
    shared = {
        "device": "cpu",
        "dtype": "float32",
        "compile": "no",
        "batch_size": 8,
        "token_budget": 150,
        "held_back": 6,
        "lora_rank": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "eval_steps": 0,
    }
    result = []
    for name, value in {**shared, **settings}.items():
        values = value if isinstance(value, list) else [value]
        result += ["--" + name.replace("_", "-"), *map(str, values)]
    return result


def run_here(name: str, *options: object) -> int:
    """Run a command in this process; return its status."""
    module = import_module(f"autoreg_trainers.{name}")
    before = sys.argv
    sys.argv = [name, *map(str, options)]
    try:
        if name in SETTINGS:
            arguments.run(getattr(module, name), SETTINGS[name], module.DESCRIPTION)
        else:
            cli.main(getattr(module, name))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.argv = before
    return 0


def heard(capsys: pytest.CaptureFixture[str], name: str, *options: object) -> tuple[int, str, str]:
    """Run a command in this process; return its status, its output and its errors."""
    capsys.readouterr()
    status = run_here(name, *options)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def command(name: str, *options: object, cwd: Path) -> str:
    """Run a command as a user does; return what it printed."""
    done = commands.command(f"autoreg_trainers.{name}", *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def launched(module: str, *options: object, configuration: Path, cwd: Path) -> str:
    """Run a module in two processes, by accelerate's launcher; return what was printed."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--config_file", str(configuration), "--num_processes", "2"]
    launcher += ["--main_process_port", str(free_port()), "-m", module, *map(str, options)]
    done = subprocess.run(launcher, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def apart(
    name: str,
    *options: object,
    cwd: Path,
    count: int = 1,
    before: Callable[..., None] | None = None,
    given: tuple[Any, ...] = (),
    environment: dict[str, str] | None = None,
) -> list[int | None]:
    """Run a command in processes of its own; return their statuses, -9 where it was killed.

    Parameters
    ----------
    name, options, cwd
        The command.
    count
        How many processes share the work.
    before, given
        What each calls first, with its rank and what is given.
    environment
        Variables to set.
    """
    port = free_port()
    children = []
    for rank in range(count):
        variables = {**(environment or {})}
        if count > 1:
            variables |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        arguments = (name, [*map(str, options)], cwd, dict(os.environ) | variables, before)
        child = processes.Process(target=_work, args=(*arguments, rank, given))
        child.start()
        children.append(child)
    for child in children:
        child.join(300)
    statuses = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return statuses


def _work(
    name: str,
    options: list[str],
    cwd: Path,
    environment: dict[str, str],
    before: Callable[..., None] | None,
    rank: int,
    given: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    torch.set_num_threads(1)
    if before is not None:
        before(rank, *given)
    status = run_here(name, *options)
    sys.stdout.flush()
    os._exit(status)  # threads of libraries need not be waited for


def last(run: Path) -> Path:
    """Return a run's last checkpoint."""
    found = (run / "checkpoints").glob("checkpoint-*/trainer_state.json")
    return max((path.parent for path in found), key=lambda path: int(path.name.rpartition("-")[2]))


def history(run: Path) -> dict[int, dict[str, float]]:
    """Return what was logged at each step, from the run's last checkpoint."""
    entries = json.loads((last(run) / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry for entry in entries if "loss" in entry}


def trained(run: Path) -> dict[str, torch.Tensor]:
    """Return all that a run has trained, unrounded, from its last checkpoint."""
    return load_file(last(run) / WEIGHTS_FILE)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return all that a run has trained, as its model folder holds it."""
    return {
        f"{path.name}:{name}": value
        for path in sorted((run / "model").rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }
