"""What the package imports, and what it says where LangChain is missing."""

import subprocess
import sys

WITHOUT = """
import sys
sys.modules[{name!r}] = None  # as if it were not installed
import {package}
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_without_langchain_the_extra_is_named():
    done = run(WITHOUT.format(name="langchain_core", package="langchain_autoreg"))
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(
        "ImportError: langchain_autoreg needs LangChain: pip install 'autoreg-rag[langchain]'"
    )


def test_another_package_that_is_missing_is_named_itself():
    done = run(WITHOUT.format(name="pydantic", package="langchain_autoreg"))
    assert "pydantic" in done.stderr.rstrip().splitlines()[-1]


def test_our_core_imports_no_framework():
    frameworks = {"langchain_core", "llama_index.core", "langchain_autoreg"}
    modules = "autoreg_rag, autoreg_rag.rerank, autoreg_rag.sharing, autoreg_rag.index.sharing"
    done = run(f"import sys, {modules}; print({frameworks} & sys.modules.keys())")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "set()", "")


def test_no_other_package_of_langchain_is_needed():
    loaded = "{name.partition('.')[0] for name in sys.modules if name.startswith('langchain')}"
    done = run(f"import sys, langchain_autoreg; print(sorted({loaded}))")
    assert done.stdout.strip() in (
        "['langchain_autoreg', 'langchain_core']",
        "['langchain_autoreg', 'langchain_core', 'langchain_protocol']",
    )
