"""The corpus: files are found, read as documents, and cut into chunks."""

from autoreg_rag.corpus.chunking import DEFAULT_OVERLAP, DEFAULT_SIZE, SMALLEST_SIZE, Chunker
from autoreg_rag.corpus.files import (
    CorpusFile,
    EmptyCorpusError,
    check_corpus,
    corpus_name,
    file_digest,
    file_state,
    find_files,
)
from autoreg_rag.corpus.readers import READER_VERSION, read_documents
from autoreg_rag.corpus.records import Chunk, Document, Hit

__all__ = [
    "DEFAULT_OVERLAP",
    "DEFAULT_SIZE",
    "READER_VERSION",
    "SMALLEST_SIZE",
    "Chunk",
    "Chunker",
    "CorpusFile",
    "Document",
    "EmptyCorpusError",
    "Hit",
    "check_corpus",
    "corpus_name",
    "file_digest",
    "file_state",
    "find_files",
    "read_documents",
]
