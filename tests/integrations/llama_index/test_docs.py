"""The page on LlamaIndex: what it shows runs, with the default model."""

import re
import shlex
import subprocess
import sys

from tests.integrations.doc_blocks import DOCS, run_page

COMMAND = re.compile(r"^python (-m autoreg_rag\.index .*)$", re.MULTILINE)


def test_the_page_runs(real_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "penguins.txt").write_text("Penguins live on the coasts of Antarctica.")
    (notes / "bread.md").write_text("# Bread\n\nBread is baked from flour, water and salt.")
    (notes / "years.jsonl").write_text('{"text": "The bakery opened in spring.", "year": 1999}')
    commands = COMMAND.findall((DOCS / "llama-index.md").read_text())
    assert len(commands) == 2
    for command in commands:
        subprocess.run([sys.executable, *shlex.split(command)], check=True, capture_output=True)
    names = run_page("llama-index.md")
    names["store"].close()
