"""The page on LlamaIndex: what it shows runs, with the default model."""

from tests.integrations.doc_blocks import run_index_commands, run_page


def test_the_page_runs(real_model, notes):
    assert run_index_commands("llama-index.md") == 2
    names = run_page("llama-index.md")
    names["store"].close()
