"""The page on LangChain: what it shows runs, with the default model."""

from tests.integrations.doc_blocks import run_index_commands, run_page


def test_the_page_runs(real_model, notes):
    assert run_index_commands("langchain.md") == 2
    names = run_page("langchain.md")
    assert names["document"].page_content == "The bakery opened in spring."
    assert {one.metadata["source"] for one in names["candidates"]} == {
        f"notes/{path.name}" for path in notes.iterdir()
    }
