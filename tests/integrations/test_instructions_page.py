"""The page on instructions: what it shows runs, with the default model."""

from tests.integrations.doc_blocks import DOCS, python_blocks, run_blocks, run_index_commands


def test_the_page_runs(real_model, notes, capsys):
    page = DOCS / "instructions.md"
    blocks = python_blocks(page)
    makes_the_index = next(i for i, block in enumerate(blocks) if "Index.open" in block)
    names = run_blocks(page, blocks[:makes_the_index])
    assert run_index_commands("instructions.md") == 1
    capsys.readouterr()
    names = run_blocks(page, blocks[makes_the_index:], names)
    output = capsys.readouterr().out
    assert "the index was made by the model" in output
    assert "python -m autoreg_rag.index" in output
    assert names["mine"].config.query_instruction.startswith("The recipe")
