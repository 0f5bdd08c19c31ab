"""The files of a corpus: finding them, and telling whether they changed."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from autoreg_rag.corpus.formats import format_of
from autoreg_rag.errors import CorpusError, ReadError
from autoreg_rag.files import sha256

logger = logging.getLogger(__name__)

DEFAULT_EXCLUDES = (
    ".*",
    "__pycache__/",
    "node_modules/",
    "venv/",
    "*.egg-info/",
    "*~",
    "~$*",
    "Thumbs.db",
)
"""Left out of every corpus, as patterns of a ``.gitignore``: hidden files and usual junk."""

_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line breaks, and stand-ins for bytes that are not UTF-8."""


class EmptyCorpusError(CorpusError):
    """A corpus is gone, or there is nothing in it to be indexed."""


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file that is to be indexed.

    Attributes
    ----------
    path
        Where it is.
    source
        What it is called in the index: ``<corpus name>/<path below the corpus>``,
        with forward slashes.
    size
        In bytes.
    """

    path: Path
    source: str
    size: int


def file_digest(file: CorpusFile, settings: str) -> str:
    """Digest of a file's bytes and of all settings that change its chunks.

    Parameters
    ----------
    file
        The file; it is read block by block.
    settings
        Any text that names those settings.

    Returns
    -------
    str
        A SHA-256, as 64 hexadecimal digits.

    Raises
    ------
    ReadError
        The file cannot be read.
    """
    try:
        content = bytes.fromhex(sha256(file.path))
    except OSError as error:
        raise ReadError(f"{file.source}: {error.strerror}") from error
    # Hashing the content first keeps its last bytes and the settings apart.
    return hashlib.sha256(content + settings.encode()).hexdigest()


def file_state(file: CorpusFile) -> tuple[int, ...]:
    """Return what differs if a file was written to: time of change, size and inode.

    Raises
    ------
    ReadError
        The file cannot be looked at.
    """
    try:
        status = file.path.stat()
    except OSError as error:
        raise ReadError(f"{file.source}: {error.strerror}") from error
    return status.st_mtime_ns, status.st_size, status.st_ino


def find_files(
    root: str | Path,
    name: str,
    *,
    globs: Sequence[str] = (),
    excludes: Sequence[str] = (),
    is_index: Callable[[Path], bool] | None = None,
    on_skip: Callable[[str, str], None] | None = None,
    on_error: Callable[[str, ReadError], None] | None = None,
) -> Iterator[CorpusFile]:
    """Find the files of a corpus, in order of their sources.

    Links to files and folders are followed; a folder that several paths lead
    to, as in a loop of links, is visited once. Patterns are those of a
    ``.gitignore``, matched against the path below the root.

    Parameters
    ----------
    root
        A folder, or a single file, which is taken whatever its name is.
    name
        The corpus name: the first part of every source.
    globs
        If given, all files that match one of these are taken, whatever their
        suffix, and no others. Without it, all files of a known format are.
    excludes
        Files and folders to leave out, beside `DEFAULT_EXCLUDES`; a pattern
        that starts with ``!`` takes in again what an earlier one left out.
    is_index
        Tells by its path whether a folder holds an index: such a folder is
        left out with all that it holds.
    on_skip
        Called with source and reason for each file that is not taken because
        its format is not known or it is not a regular file, and for each
        folder that was visited already or is an index. The default logs them.
    on_error
        Called with source and error for each file that cannot be looked at
        and each folder that cannot be listed (its source ends with ``/``).
        The default logs them.

    Yields
    ------
    CorpusFile
        Sorted by the path below the root, as a string.

    Raises
    ------
    CorpusError
        At once: `root` cannot be read or is an index, or a pattern is malformed.
        At the end: no file can be read.
    EmptyCorpusError
        At once: `root` is missing. At the end: there was no file to be taken.
    """
    root = Path(root)
    try:
        status = root.stat()
        holds_index = is_index is not None and is_index(root)
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        kind = EmptyCorpusError if is_gone else CorpusError
        raise kind(f"cannot read the corpus {shown(root)}: {error.strerror}") from error
    if stat.S_ISREG(status.st_mode):
        return iter((CorpusFile(root, f"{name}/{_storable(root.name)}", status.st_size),))
    if not stat.S_ISDIR(status.st_mode):
        raise CorpusError(f"the corpus {shown(root)} is neither a file nor a folder")
    if holds_index:
        raise CorpusError(f"{shown(root)} is an index, not a corpus: name the folder of the texts")
    return _Walk(
        root=root,
        name=name,
        wanted=_patterns(globs) if globs else None,
        excluded=_patterns((*DEFAULT_EXCLUDES, *excludes)),
        is_index=is_index or (lambda _: False),
        on_skip=on_skip or _log_skip,
        on_error=on_error or _log_error,
    ).files()


def corpus_name(root: Path) -> str:
    """Return the name of a corpus: the last part of its path."""
    return _storable(root.resolve().name) or "root"


def corpus_path(root: Path) -> str:
    """Return the path of a corpus as an index notes it."""
    return _storable(str(root.resolve()))


def shown(text: object) -> str:
    """Return a path, or a message that names files, in one line that can be printed."""
    return _ODD.sub(lambda odd: odd[0].encode("unicode_escape").decode(), str(text))


def check_corpus(
    root: Path,
    *,
    globs: Sequence[str] = (),
    excludes: Sequence[str] = (),
    is_index: Callable[[Path], bool] | None = None,
) -> None:
    """Look for one file to index, before anything is loaded or written; see `find_files`.

    Raises
    ------
    CorpusError
        The root cannot be read.
    EmptyCorpusError
        It is missing, or there is nothing to index in it.
    """

    def ignore(*_: object) -> None:
        """Leave it to the walk that indexes."""

    next(
        find_files(
            root,
            corpus_name(root),
            globs=globs,
            excludes=excludes,
            is_index=is_index,
            on_skip=ignore,
            on_error=ignore,
        )
    )


@dataclass
class _Walk:
    """One walk through a folder. Relative paths of folders end with a slash."""

    root: Path
    name: str
    wanted: GitIgnoreSpec | None
    excluded: GitIgnoreSpec
    is_index: Callable[[Path], bool]
    on_skip: Callable[[str, str], None]
    on_error: Callable[[str, ReadError], None]
    visited: set[tuple[int, int]] = field(default_factory=set)
    found: int = 0
    skipped: int = 0  # files, not folders
    first_error: ReadError | None = None

    def files(self) -> Iterator[CorpusFile]:
        """Yield the files; a stack, since a tree may be deeper than Python's recursion limit."""
        pending = [""]
        while pending:
            relative = pending.pop()
            try:
                if relative == "" or relative.endswith("/"):
                    pending.extend(sorted(self._entries(relative), reverse=True))
                elif file := self._file(relative):
                    self.found += 1
                    yield file
            except OSError as error:
                source = self._source(relative)
                failure = ReadError(f"{source}: {error.strerror}")
                self.first_error = self.first_error or failure
                self.on_error(source, failure)
        self._check()

    def _entries(self, folder: str) -> list[str]:
        """Relative paths of what a folder holds, without what is excluded."""
        path = self.root / folder
        status = path.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in self.visited:
            self._skip(folder, "a link to a folder that was visited already")
            return []
        self.visited.add(identity)
        if self.is_index(path):
            self._skip(folder, "an index")
            return []
        with os.scandir(path) as entries:
            paths = [
                f"{folder}{e.name}/" if _is_folder(e) else f"{folder}{e.name}" for e in entries
            ]
        return [relative for relative in paths if not self.excluded.match_file(relative)]

    def _file(self, relative: str) -> CorpusFile | None:
        """Give the file if it is to be taken; OSError if it cannot be looked at."""
        path = self.root / relative
        if path.is_symlink() and not self.excluded.match_file(f"{relative}/"):
            path.stat()  # one that leads nowhere may be a folder's, with all that lies below it
        if self.wanted is not None and not self.wanted.match_file(relative):
            return None
        if self.wanted is None and format_of(relative) is None:
            self._skip(relative, "not a known format")
            return None
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            self._skip(relative, "not a regular file")
            return None
        return CorpusFile(path, self._source(relative), status.st_size)

    def _skip(self, relative: str, reason: str) -> None:
        self.skipped += not relative.endswith("/")
        self.on_skip(self._source(relative), reason)

    def _source(self, relative: str) -> str:
        return f"{self.name}/{_storable(relative)}"

    def _check(self) -> None:
        """Raise CorpusError if the walk came back with nothing."""
        if self.found:
            return
        root = shown(self.root)
        if self.first_error:
            first = shown(self.first_error)
            raise CorpusError(f"none of the files in {root} can be read; the first: {first}")
        if self.wanted is not None:
            raise EmptyCorpusError(f"no file in {root} matches the patterns asked for")
        if self.skipped:
            raise EmptyCorpusError(
                f"none of the {self.skipped} files in {root} has a known format; "
                "those that match a pattern given as a glob are read as text"
            )
        raise EmptyCorpusError(f"there are no files in {root}; hidden ones are left out")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; looking at it as a file names the reason
        return False


def _storable(name: str) -> str:
    """Give a file name as valid Unicode, with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _patterns(lines: Sequence[str]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except (ValueError, re.error) as error:
        raise CorpusError(f"a file pattern is malformed: {error}") from error


def _log_skip(source: str, reason: str) -> None:
    logger.info("%s skipped: %s", shown(source), reason)


def _log_error(source: str, error: ReadError) -> None:
    logger.warning("%s", shown(error))
