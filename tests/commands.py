"""Commands in processes of their own, as a user's are, which start at once.

They are forked from one that has imported what they need; that takes seconds, and a test
that starts Python itself waits for it each time.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.forkserver import processes

TIMEOUT = 600
"""Seconds after which a command is taken to hang."""


def command(
    program: str | Path, *options: object, cwd: Path, forks: bool = False
) -> CompletedProcess[str]:
    """Run a module (by its dotted name) or a script (by its path); give what it left.

    Parameters
    ----------
    program, options
        The command.
    cwd
        Where it runs.
    forks
        Whether the modules that it runs with ``subprocess.run`` are forked from it as well.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("out", "err")]
        arguments = [str(program), *map(str, options)]
        child = processes.Process(
            target=_run,
            args=(arguments, isinstance(program, Path), cwd, dict(os.environ), outputs, forks),
        )
        child.start()
        child.join(TIMEOUT)
        child.kill()
        child.join()
        out, err = (path.read_text(encoding="utf-8") for path in outputs)
    return CompletedProcess(arguments, child.exitcode, out, err)


def _run(
    arguments: list[str],
    is_script: bool,
    cwd: Path,
    environment: dict[str, str],
    outputs: list[Path],
    forks: bool,
) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), outputs, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if forks:
        subprocess.run = _forked
    _execute(arguments, is_script, cwd)


def _execute(arguments: list[str], is_script: bool, cwd: Path) -> None:
    sys.argv = arguments
    if is_script:
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        sys.path.insert(0, str(cwd))
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


_run_program = subprocess.run


def _forked(arguments: list[str], **how: Any) -> CompletedProcess[Any]:
    """Do what ``subprocess.run`` does; a module of Python's starts by a fork."""
    if arguments[:2] != [sys.executable, "-m"] or how.keys() - {"check"}:
        return _run_program(arguments, **how)
    child = multiprocessing.get_context("fork").Process(target=_module, args=(arguments[2:],))
    child.start()
    child.join()
    return CompletedProcess(arguments, child.exitcode)


def _module(arguments: list[str]) -> None:
    subprocess.run = _run_program
    _execute(arguments, False, Path.cwd())
