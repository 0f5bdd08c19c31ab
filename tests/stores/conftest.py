import os
import tempfile
from pathlib import Path

import pytest

# Waiting for a disk, thousands of times, shows nothing that a file system in memory does not.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture(scope="session")
def quick_folder():
    """Give a function that makes an empty folder, in memory where there is such a place."""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as root:
        yield lambda: Path(tempfile.mkdtemp(dir=root))


@pytest.fixture
def folder(quick_folder):
    """Give the path of an index that is yet to be made."""
    return quick_folder() / "index"
