"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UMASK = os.umask(0o077)
"""What this process takes from new files; read once, since reading it means to change it."""
os.umask(_UMASK)

_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP}
"""What file systems, above all of networks, say that do not sync folders."""

_STAYS = {errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS}
"""Why a folder cannot be replaced: it is a mount point, or its parent may not be written."""


class KeptFolderError(OSError):
    """A folder is there, and another cannot take its place."""


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder for its ``~``; that of an unknown user stays."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; not where no system could have one by that name."""
    try:
        return path.exists()
    except OSError:  # too long
        return False


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one, so that no reader sees half of it.

    Where `path` is a link, the file that it leads to is replaced; a pipe or a device takes
    the content as it is.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_UMASK)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path, sign: str = "") -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` when the block ends well.

    Where `path` is a link, it becomes the folder that it leads to. The working folder stays
    the one it is, since nobody who stands in it would see another: it gets the files one by
    one.

    Parameters
    ----------
    path
        It may be there if it is empty.
    sign
        The file without which nobody takes the folder for whole; it comes last.

    Raises
    ------
    FileExistsError
        Something stands at `path` when the block ends; it is left as it was.
    KeptFolderError
        `path` is an empty folder that has to stay.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _explained(path):
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for item in temporary.rglob("*"):
            if item.is_file():
                with item.open("rb") as stream:
                    os.fsync(stream.fileno())
                item.chmod(0o666 & ~_UMASK)  # safetensors makes files for their owner alone
            elif item.is_dir():
                sync_folder(item)
        sync_folder(temporary)
        temporary.chmod(0o777 & ~_UMASK)
        if path.exists() and any(path.iterdir()):
            raise FileExistsError(f"{path} already exists")
        with _explained(path):
            if path.is_dir() and path.samefile(Path()):
                for item in sorted(temporary.iterdir(), key=lambda item: item.name == sign):
                    item.replace(path / item.name)
                temporary.rmdir()
                sync_folder(path)
            else:
                temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what to do if a folder cannot be replaced."""
    try:
        yield
    except OSError as error:
        if error.errno in _STAYS and path.is_dir():
            raise KeptFolderError(
                f"nothing can take the place of {path} ({error.strerror}), which is a mount point "
                "or in a folder without rights to write: choose a folder inside it"
            ) from error
        raise


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
