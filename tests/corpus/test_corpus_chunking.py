from __future__ import annotations

import itertools
import re
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from autoreg_rag.corpus import Chunk, Chunker, Document
from autoreg_rag.errors import CorpusError

DIGEST = "0" * 64

PIECES = [
    *("a", "word ", " ", "\n", "\r\n", "\n\n", "\t", ".", "A sentence. ", "repeat repeat repeat "),
    *("é", "e\u0301", "o\u0302\u0323", "😀", "👩‍👩‍👧", "🇫🇷", "漢字", "。", "مرحبا", "\ufdfa"),
    *("\u2028", "\x85", "\u00a0", "\u3000", "\x0c", "\x1f", "\ufeff", "\u200d", "<s>"),
    *("# ", "```\n", "- ", "> ", "| a | b |\n|---|---|\n", "[x](y)", "<b>", "***", "\\", "1. "),
]
TEXTS = st.lists(
    st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=300
).map("".join)


def tokens_in(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def assert_places_are_right(document: Document, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        assert document.text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()


def assert_only_white_space_is_lost(text: str, chunks: list[Chunk]) -> None:
    covered = bytearray(len(text))
    for chunk in chunks:
        covered[chunk.start : chunk.end] = b"\1" * len(chunk.text)
    lost = "".join(character for character, seen in zip(text, covered, strict=True) if not seen)
    assert not lost.strip()


@pytest.mark.parametrize("name", ["corpus/a.txt", "corpus/a.md"])
@pytest.mark.parametrize(("size", "overlap"), [(16, 0), (16, 15), (48, 12)])
def test_chunks_of_any_text_are_in_place_and_whole_and_short_enough(
    tokenizer: Tokenizer, name: str, size: int, overlap: int
) -> None:
    chunker = Chunker(tokenizer, size, overlap)

    @settings(max_examples=60)
    @given(text=TEXTS, times=st.integers(1, 10))
    def check(text: str, times: int) -> None:
        document = Document(text * times, name)
        chunks = list(chunker.chunks(document, DIGEST))
        assert_places_are_right(document, chunks)
        assert_only_white_space_is_lost(document.text, chunks)
        assert all(tokens_in(tokenizer, chunk.text) <= size for chunk in chunks)
        assert len({chunk.id for chunk in chunks}) == len(chunks)

    check()


@pytest.mark.parametrize(
    "reshape",
    [
        pytest.param(lambda text: text, id="as it is"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(lambda text: " ".join(text.split()), id="one line"),
        pytest.param(lambda text: re.sub(r"\s+", "", text)[:30_000], id="no white space"),
        pytest.param(lambda text: "漢字かな交じり文。" * 2000, id="Japanese"),
        pytest.param(lambda text: "👩‍👩‍👧" * 3000, id="emoji"),
    ],
)
def test_a_long_text_in_many_sections_keeps_places_and_all_words(
    tokenizer: Tokenizer, reference: str, reshape
) -> None:
    document = Document(reshape(reference[:200_000]), "corpus/a.txt")
    chunker = Chunker(tokenizer, 128, 16)
    chunks = list(chunker.chunks(document, DIGEST))
    assert_places_are_right(document, chunks)
    assert_only_white_space_is_lost(document.text, chunks)
    assert all(tokens_in(tokenizer, chunk.text) <= 128 for chunk in chunks)


def test_chunks_of_prose_are_well_filled(tokenizer: Tokenizer, reference: str) -> None:
    document = Document(" ".join(reference[:100_000].split()), "corpus/a.txt")
    chunks = list(Chunker(tokenizer, 256, 0).chunks(document, DIGEST))
    total = sum(tokens_in(tokenizer, chunk.text) for chunk in chunks)
    assert total / len(chunks) > 0.75 * 256


def test_a_short_text_is_one_chunk_without_the_white_space_around_it(tokenizer: Tokenizer) -> None:
    document = Document("\n  One thought.\n", "corpus/a.txt")
    (chunk,) = Chunker(tokenizer).chunks(document, DIGEST)
    assert (chunk.text, chunk.start, chunk.end) == ("One thought.", 3, 15)


@pytest.mark.parametrize("text", ["", " \n\t ", "\x1f"])
def test_a_text_without_words_has_no_chunks(tokenizer: Tokenizer, text: str) -> None:
    assert list(Chunker(tokenizer).chunks(Document(text, "corpus/a.txt"), DIGEST)) == []


def test_overlap_repeats_the_end_of_the_chunk_before(tokenizer: Tokenizer) -> None:
    text = " ".join(f"Sentence number {number} is here." for number in range(50))
    document = Document(text, "corpus/a.txt")
    with_overlap = list(Chunker(tokenizer, 64, 32).chunks(document, DIGEST))
    without = list(Chunker(tokenizer, 64, 0).chunks(document, DIGEST))
    pairs = list(itertools.pairwise(with_overlap))
    assert all(after.start < before.end for before, after in pairs)
    assert all(
        tokens_in(tokenizer, text[after.start : before.end]) <= 32 for before, after in pairs
    )
    assert all(after.start >= before.end for before, after in itertools.pairwise(without))


def test_markdown_is_cut_at_its_headings(tokenizer: Tokenizer) -> None:
    body = "Some words that fill the section up. " * 4
    text = "".join(f"# Heading {letter}\n{body}\n" for letter in "ABCD")
    chunker = Chunker(tokenizer, tokens_in(tokenizer, text) // 4 + 8, 0)
    chunks = list(chunker.chunks(Document(text, "corpus/a.md"), DIGEST))
    assert [chunk.text.splitlines()[0] for chunk in chunks] == [
        f"# Heading {letter}" for letter in "ABCD"
    ]


def test_ids_depend_on_source_digest_part_and_place_and_on_nothing_else(
    tokenizer: Tokenizer, reference: str
) -> None:
    text = reference[:5000]
    chunker = Chunker(tokenizer, 64, 8)

    def ids(document: Document, digest: str = DIGEST) -> list[str]:
        return [chunk.id for chunk in chunker.chunks(document, digest)]

    base = ids(Document(text, "corpus/a.txt"))
    assert [str(uuid.UUID(identity)) for identity in base] == base
    assert ids(Document(text, "corpus/a.txt", 0, {"title": "other"})) == base
    assert not set(base) & set(ids(Document(text, "corpus/b.txt")))
    assert not set(base) & set(ids(Document(text, "corpus/a.txt", part=1)))
    assert not set(base) & set(ids(Document(text, "corpus/a.txt"), "1" * 64))


def test_ids_stay_the_same_from_release_to_release(tokenizer: Tokenizer) -> None:
    (chunk,) = Chunker(tokenizer).chunks(Document("One thought.", "corpus/a.txt"), DIGEST)
    assert chunk.id == "713d5995-5bc5-5bc4-807b-34db9e1dee19"


def test_chunks_carry_the_metadata_of_their_document(tokenizer: Tokenizer) -> None:
    metadata = {"title": "A title", "page": 3}
    document = Document("word " * 500, "corpus/a.pdf", 2, metadata)
    chunks = list(Chunker(tokenizer, 64, 0).chunks(document, DIGEST))
    assert len(chunks) > 1
    assert all(chunk.metadata == metadata and chunk.source == "corpus/a.pdf" for chunk in chunks)


def test_what_a_tokenizer_adds_or_cuts_off_does_not_change_the_chunks(
    tokenizer: Tokenizer, reference: str
) -> None:
    document = Document(reference[:20_000], "corpus/a.txt")
    plain = Chunker(tokenizer, 64, 8)
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(16)
    copy.enable_padding(length=128, pad_id=1, pad_token="</s>")
    distorted = Chunker(copy, 64, 8)
    assert list(distorted.chunks(document, DIGEST)) == list(plain.chunks(document, DIGEST))
    assert distorted.settings == plain.settings
    assert copy.truncation is not None
    assert copy.padding is not None
    copy.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    adding = Chunker(copy, 64, 8)
    assert list(adding.chunks(document, DIGEST)) == list(plain.chunks(document, DIGEST))


def test_spelled_out_special_tokens_count_as_the_model_reads_them(tokenizer: Tokenizer) -> None:
    as_text = Tokenizer.from_str(tokenizer.to_str())
    as_text.encode_special_tokens = True
    document = Document("<s> " * 200, "corpus/a.txt")
    chunks = list(Chunker(as_text, 64, 0).chunks(document, DIGEST))
    assert max(tokens_in(as_text, chunk.text) for chunk in chunks) <= 64
    assert len(chunks) > len(list(Chunker(tokenizer, 64, 0).chunks(document, DIGEST)))


def test_settings_name_all_that_changes_the_cuts(tokenizer: Tokenizer) -> None:
    other = Tokenizer.from_str(tokenizer.to_str())
    other.add_tokens(["Python"])
    chunkers = [
        Chunker(tokenizer, 64, 8),
        Chunker(tokenizer, 65, 8),
        Chunker(tokenizer, 64, 9),
        Chunker(other, 64, 8),
    ]
    assert len({chunker.settings for chunker in chunkers}) == 4
    assert Chunker(tokenizer, 64, 8).settings == chunkers[0].settings


@pytest.mark.parametrize(("size", "overlap"), [(15, 0), (64, 64), (64, 100), (64, -1), (-1, -2)])
def test_sizes_that_cannot_be_are_refused(tokenizer: Tokenizer, size: int, overlap: int) -> None:
    with pytest.raises(CorpusError, match=r"chunk (size|overlap) of"):
        Chunker(tokenizer, size, overlap)
