"""Commands in processes of their own, as a user's are, which start at once.

They are forked from one that has imported what they need; that takes seconds, and a test
that starts Python itself waits for it each time.
"""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

from tests.forkserver import processes

TIMEOUT = 600
"""Seconds after which a command is taken to hang."""


def command(program: str | Path, *options: object, cwd: Path) -> CompletedProcess[str]:
    """Run a module (by its dotted name) or a script (by its path); give what it left.

    Parameters
    ----------
    program, options
        The command.
    cwd
        Where it runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("out", "err")]
        arguments = [str(program), *map(str, options)]
        child = processes.Process(
            target=_run,
            args=(arguments, isinstance(program, Path), cwd, dict(os.environ), outputs),
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
) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), outputs, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    program = arguments[0]
    sys.argv = arguments
    if is_script:
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
    else:
        sys.path.insert(0, str(cwd))
        runpy.run_module(program, run_name="__main__", alter_sys=True)
