from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from autoreg_rag.corpus import CorpusFile, Document, read_documents
from autoreg_rag.errors import ReadError

MakeFile = Callable[[str, bytes | str], CorpusFile]
Read = Callable[..., tuple[list[Document], list[ReadError]]]


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """Write a file and describe it as the walk through a corpus would."""

    def make(name: str, content: bytes | str) -> CorpusFile:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return CorpusFile(path, f"corpus/{name}", len(data))

    return make


@pytest.fixture
def read(make_file: MakeFile) -> Read:
    """Write a file and read it: its documents, and the errors of single records."""

    def read_it(name: str, content: bytes | str, **options: int):
        errors: list[ReadError] = []
        file = make_file(name, content)
        return list(read_documents(file, on_error=errors.append, **options)), errors

    return read_it


@pytest.fixture(scope="session")
def reference() -> str:
    """A long real text: the Python language reference, 0.5 MB."""
    return "\n\n\n".join(topics[name] for name in sorted(topics))


@pytest.fixture(scope="session")
def tokenizer(reference: str) -> Tokenizer:
    """A byte-level BPE with special tokens, as today's language models have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([reference[:50_000]], trainer)
    return tokenizer
