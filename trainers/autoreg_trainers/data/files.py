"""Which files or which hub dataset a source stands for, and what they hold now."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from autoreg_rag.errors import first_line
from autoreg_rag.files import sha256
from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.source import Source

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".tsv", ".csv")
PLAIN = (".txt",)
PARQUET = (".parquet",)

_PACKED = (*JSON_LINES, *TABLES, *PLAIN)
ENDINGS = (*_PACKED, *(f"{ending}.gz" for ending in _PACKED), *PARQUET)
"""The names of files that are read end with one of these."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class HubDataset:
    """A split of a dataset in the layout of hubs, on a hub or copied into a folder."""

    name: str
    builder: Any
    split: str

    def identity(self) -> list[str]:
        """Return what changes when the rows may have changed."""
        files = self.builder.config.data_files or {}
        origins = files[self.split].origin_metadata if self.split in files else []
        return [self.name, self.split, str(self.builder.hash), str(origins)]

    def stream(self) -> datasets.IterableDataset:
        """Return the rows; DataError if there is no such split."""
        try:
            return self.builder.as_streaming_dataset(split=self.split)
        except ValueError as error:
            raise DataError(f"{self.name}: {first_line(error)}") from error


def find(source: Source) -> list[Path] | HubDataset:
    """Return a source's files, in a fixed order, or the hub dataset that it names.

    Raises
    ------
    DataError
        There is nothing by this name, or nothing that can be read.
    """
    path = Path(source.path).expanduser()
    if path.is_dir():
        if source.split != "train" or source.subset or _is_hub_copy(path):
            return _hub_dataset(str(path.resolve()), source)
        return _sorted(_data_files(path), f"the folder {path}")
    if path.is_file() or glob.has_magic(str(path)):
        if source.split != "train" or source.subset:
            raise DataError(f"{path}: only datasets in a hub's layout have a split or a subset")
        if path.is_file():
            return _sorted([path], str(path))
        matches = [Path(name) for name in glob.glob(str(path), recursive=True)]
        files = [file for file in matches if file.is_file()]
        return _sorted(files, f"the pattern {source.path!r}")
    if _HUB_NAME.fullmatch(source.path) and not path.name.endswith(ENDINGS):
        return _hub_dataset(source.path, source)
    raise DataError(f"there is no file or folder {path}")


def identity(files: list[Path]) -> list[str]:
    """Return name and SHA-256 of each file; DataError if one cannot be read."""
    try:
        return [f"{file.name}\0{sha256(file)}" for file in files]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def bare_name(file: Path) -> str:
    """Return a file's name without its endings."""
    return file.name[: -len(_ending(file))]


def ending(file: Path) -> str:
    """Return the ending that says what a file holds, without that of its packing."""
    return _ending(file).removesuffix(".gz")


def _ending(file: Path) -> str:
    # The longest, so that ".jsonl.gz" is not taken for ".gz".
    return max((end for end in ENDINGS if file.name.lower().endswith(end)), key=len)


def _sorted(files: list[Path], what: str) -> list[Path]:
    """Order files, the smallest first; DataError if there is none, or one of another kind."""
    if not files:
        raise DataError(f"{what} holds no file to read: {', '.join(ENDINGS)}")
    for file in files:
        if not file.name.lower().endswith(ENDINGS):
            raise DataError(f"{file} is of no kind that can be read: {', '.join(ENDINGS)}")
    # A limit is spread over the files as they come; what a small one has too
    # little of, a larger one can then make up for.
    return sorted(files, key=lambda file: (file.stat().st_size, file.as_posix()))


def _data_files(folder: Path) -> list[Path]:
    files: Iterator[Path] = folder.rglob("*")
    return [
        file
        for file in files
        if file.name.lower().endswith(ENDINGS)
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _is_hub_copy(folder: Path) -> bool:
    """Tell a copy of a hub dataset by the YAML at the top of its card."""
    try:
        with (folder / "README.md").open("rb") as card:
            return card.readline().strip() == b"---"
    except OSError:
        return False


def _hub_dataset(name: str, source: Source) -> HubDataset:
    try:
        builder = datasets.load_dataset_builder(name, name=source.subset)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{source.path!r} is no file or folder that can be read, and no hub served such a "
            f"dataset: {first_line(error)}"
        ) from error
    return HubDataset(source.path, builder, source.split)
