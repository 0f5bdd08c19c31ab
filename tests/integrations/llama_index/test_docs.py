"""The page on LlamaIndex: what it shows runs, with the default model."""

import llama_index.core

from tests.integrations.doc_blocks import run_index_commands, run_page


def test_the_page_runs(real_model, notes, monkeypatch):
    monkeypatch.setattr(llama_index.core, "global_tokenizer", None)  # which the page sets
    assert run_index_commands("llama-index.md") == 2
    names = run_page("llama-index.md")
    names["store"].close()
