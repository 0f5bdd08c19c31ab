"""Write Python's language reference, which ships with CPython, as text files.

Run: ``python examples/python_reference.py FOLDER``. It gives every machine a
real corpus of 79 files and half a megabyte, without a network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from pydoc_data.topics import topics


def write_reference(folder: Path) -> None:
    """Write one file for each topic of ``pydoc``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in topics.items():
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the files into the folder that is named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/python_reference.py FOLDER")
    folder = Path(sys.argv[1])
    write_reference(folder)
    print(f"{len(topics)} files in {folder}")


if __name__ == "__main__":
    main()
