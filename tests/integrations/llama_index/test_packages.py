"""Our packages live in LlamaIndex's namespace, beside its own and those of others."""

from importlib.metadata import distributions
from pathlib import Path

import llama_index

INTEGRATIONS = Path(__file__).parents[3] / "integrations"


def test_no_file_is_one_of_llama_indexs_own():
    ours = {path.relative_to(INTEGRATIONS) for path in INTEGRATIONS.glob("llama_index/**/*.py")}
    theirs = {
        Path(file)
        for distribution in distributions()
        if distribution.name.startswith("llama-index")
        for file in distribution.files or []
    }
    assert Path("llama_index/core/__init__.py") in theirs
    assert not ours & theirs


def test_only_the_packages_themselves_have_an_init_file():
    inits = {path.parent.relative_to(INTEGRATIONS) for path in INTEGRATIONS.rglob("__init__.py")}
    assert {str(path) for path in inits if path.parts[0] == "llama_index"} == {
        "llama_index/embeddings/autoreg",
        "llama_index/llms/autoreg",
        "llama_index/postprocessor/autoreg_rerank",
        "llama_index/vector_stores/autoreg",
    }
    assert llama_index.__file__ is None
