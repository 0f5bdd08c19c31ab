"""Which files or which hub dataset a source stands for, and what they hold now."""

from __future__ import annotations

import glob
import re
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

    @property
    def label(self) -> str:
        """The hub's name of the dataset, or the name of the folder."""
        return Path(self.name).name if Path(self.name).is_dir() else self.name

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
        if path.is_file() and not _can_be_read(path):
            raise DataError(f"{path} is of no kind that can be read: {', '.join(ENDINGS)}")
        return _sorted([path] if path.is_file() else _matches(path), f"the pattern {path}")
    if _HUB_NAME.fullmatch(source.path) and not path.name.endswith(ENDINGS):
        return _hub_dataset(source.path, source)
    raise DataError(f"there is no file or folder {path}")


def identity(found: list[Path] | HubDataset) -> list[str]:
    """Return what changes when what `find` found may give other rows.

    Of files these are their names and SHA-256; DataError if one cannot be read.
    """
    if isinstance(found, HubDataset):
        return found.identity()
    try:
        return [f"{file.name}\0{sha256(file)}" for file in found]
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


def _can_be_read(file: Path) -> bool:
    return file.name.lower().endswith(ENDINGS) and file.is_file()


def _sorted(files: list[Path], what: str) -> list[Path]:
    """Order files by name; DataError if there is none."""
    if not files:
        raise DataError(f"{what} holds no file to read: {', '.join(ENDINGS)}")
    return sorted(files, key=Path.as_posix)


def _data_files(folder: Path) -> list[Path]:
    return [
        file
        for file in folder.rglob("*")
        if _can_be_read(file)
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _matches(pattern: Path) -> list[Path]:
    base = Path(pattern.anchor)
    return [file for file in base.glob(str(pattern.relative_to(base))) if _can_be_read(file)]


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
