"""JSON, JSON Lines, CSV and TSV."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreg_rag.corpus import CorpusFile, read_documents
from autoreg_rag.errors import ReadError

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=30)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS)
NAMES = st.sampled_from(["text", "title", "source", "row", "encoding", "x"]) | st.text(
    st.characters(), max_size=4
)


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def facts(documents) -> list[tuple[str, dict]]:
    return [(document.text, dict(document.metadata)) for document in documents]


@pytest.mark.parametrize("name", ["text", "content", "body", "page_content", "passage", "Contents"])
def test_the_text_of_a_record_is_its_text_field(read, name: str) -> None:
    documents, _ = read("a.jsonl", lines({"_id": "7", name: "words", "title": "A title"}))
    assert facts(documents) == [("words", {"_id": "7", "title": "A title", "row": 1})]


def test_the_first_of_several_text_fields_wins_if_it_is_a_string(read) -> None:
    documents, _ = read("a.jsonl", lines({"body": "b", "text": "t"}, {"text": ["t"], "body": "b"}))
    assert facts(documents) == [("t", {"body": "b", "row": 1}), ("b", {"row": 2})]


def test_an_empty_text_field_gives_way_to_one_that_is_not(read) -> None:
    documents, _ = read("a.jsonl", lines({"text": " ", "content": "", "body": "b", "title": "T"}))
    assert facts(documents) == [("b", {"title": "T", "row": 1})]


def test_a_record_without_a_text_field_is_rendered_by_lines(read) -> None:
    record = {"name": "Ada", "born": 1815, "tags": ["é", "x"], "none": None, "blank": " "}
    documents, _ = read("a.jsonl", lines(record))
    assert facts(documents) == [
        ('name: Ada\nborn: 1815\ntags: ["é", "x"]', {"name": "Ada", "born": 1815, "row": 1})
    ]


def test_a_record_whose_text_is_empty_is_its_title_or_nothing(read) -> None:
    documents, _ = read("a.jsonl", lines({"text": "", "title": "Only"}, {"text": " ", "x": 1}))
    assert facts(documents) == [("Only", {"title": "Only", "row": 1})]


def test_only_values_that_every_store_holds_are_metadata(read) -> None:
    record = {
        **{"text": "t", "yes": True, "half": 0.5, "big": 2**63, "small": -(2**63), "list": [1]},
        **{"none": None, "long": "x" * 1001, "fits": "x" * 1000, "object": {"a": 1}},
    }
    documents, _ = read("a.jsonl", json.dumps(record)[:-1] + ', "nan": NaN, "inf": Infinity}')
    assert facts(documents)[0][1] == {
        **{"yes": True, "half": 0.5, "big": str(2**63), "small": -(2**63)},
        **{"fits": "x" * 1000, "row": 1},
    }


def test_the_metadata_of_a_record_of_many_fields_is_bounded(read) -> None:
    record = {f"key_{number}": f"The message number {number}" for number in range(5000)}
    (document,), _ = read("a.json", json.dumps(record))
    kept = dict(document.metadata)
    assert len(json.dumps(kept)) < 10_000
    assert kept.pop("row") == 1
    assert list(kept) == list(record)[: len(kept)]  # in their order
    assert len(kept) > 100
    assert document.text == "\n".join(f"{name}: {value}" for name, value in record.items())


def test_fields_named_like_ours_are_kept_under_another_name(read) -> None:
    documents, _ = read("a.jsonl", lines({"text": "t", "source": "web", "row": 9}))
    assert facts(documents) == [("t", {"record_source": "web", "record_row": 9, "row": 1})]


def test_a_json_list_is_a_document_per_record(read) -> None:
    documents, (error,) = read("a.json", json.dumps([{"text": "one"}, 2, "three", {"text": ""}]))
    assert [(d.text, d.part, d.metadata["row"]) for d in documents] == [
        ("one", 0, 1),
        ("three", 2, 3),
    ]
    assert str(error) == "corpus/a.json, record 2: not a record: neither an object nor a text"


def test_a_json_object_is_one_document(read) -> None:
    documents, _ = read("a.json", json.dumps({"title": "T", "text": "one"}, indent=2))
    assert facts(documents) == [("one", {"title": "T", "row": 1})]


@pytest.mark.parametrize("text", ["[1, 2]", "5", "null"])
def test_json_without_any_record_is_an_error(read, text: str) -> None:
    with pytest.raises(ReadError, match=r"^corpus/a.json: none of its . records can be read$"):
        read("a.json", text)


@pytest.mark.parametrize(
    ("text", "why"),
    [('{"text": "cut', "Unterminated string"), ("", "Expecting value"), ("[" * 99_999, "deeply")],
)
def test_malformed_json_is_an_error_in_one_line(read, text: str, why: str) -> None:
    with pytest.raises(ReadError, match=rf"^corpus/a.json: not .*JSON: .*{why}") as caught:
        read("a.json", text)
    assert "\n" not in str(caught.value)


def test_bad_lines_are_named_and_the_others_are_read(read) -> None:
    content = b'{"text": "one"}\n\nnonsense\n{"text": "caf\xe9"}\r\n7\n"five"\r\n' + b"[" * 99_999
    content = "é".encode().join([b'{"text": "', b'"}\n']) * 20 + content
    documents, errors = read("a.jsonl", content)
    assert [(d.text, d.part, d.metadata["row"]) for d in documents[20:]] == [
        ("one", 20, 21),
        ("five", 25, 26),
    ]
    assert [str(error).partition(": ")[::2] for error in errors] == [
        ("corpus/a.jsonl, line 23", "not valid JSON: Expecting value at character 0"),
        ("corpus/a.jsonl, line 24", "not valid utf-8"),
        ("corpus/a.jsonl, line 25", "not a record: neither an object nor a text"),
        ("corpus/a.jsonl, line 27", "not readable JSON: nested too deeply"),
    ]


def test_json_lines_of_which_all_are_bad_are_an_error_of_the_file(read) -> None:
    with pytest.raises(ReadError, match=r"^corpus/a.jsonl: none of its 3 records can be read$"):
        read("a.jsonl", "some\nplain\nprose\n")


def test_lone_surrogates_and_nuls_become_replacement_characters(read) -> None:
    content = r'{"text": "a\ud800b\u0000c\ud83d\ude00", "k\udfff": "v\ud800", "title": "\udc00"}'
    (document,), _ = read("a.jsonl", content)
    assert document.text == "a\ufffdb\ufffdc😀"
    assert document.metadata == {"k\ufffd": "v\ufffd", "title": "\ufffd", "row": 1}


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.ndjson.gz"])
def test_gzipped_json_lines_are_read(read, name: str) -> None:
    records = [{"text": f"number {number}"} for number in range(50)]
    documents, _ = read(name, gzip.compress(lines(*records).encode()))
    assert [document.text for document in documents] == [record["text"] for record in records]


def test_a_truncated_gzip_gives_its_first_records_and_then_an_error(make_file) -> None:
    noise = random.Random(0)
    records = [{"text": noise.randbytes(500).hex()} for _ in range(2500)]
    data = gzip.compress(lines(*records).encode(), 1)
    documents = read_documents(make_file("a.jsonl.gz", data[:-1000]))
    assert next(documents).text == records[0]["text"]
    with pytest.raises(ReadError, match=r"^corpus/a.jsonl.gz: damaged or malformed \(EOFError"):
        list(documents)


@pytest.mark.parametrize("data", [b"", b"plain text", gzip.compress(b'"text"', mtime=0)[:15]])
def test_a_file_that_is_no_gzip_is_an_error_unless_it_is_empty(read, data: bytes) -> None:
    if not data:
        assert read("a.jsonl.gz", data) == ([], [])
        return
    with pytest.raises(ReadError, match=r"^corpus/a.jsonl.gz: damaged or malformed"):
        read("a.jsonl.gz", data)


@pytest.mark.parametrize(
    ("name", "head", "line"),
    [("a.jsonl", "", '{"text": "WORDS"}\n'), ("a.csv", "text\n", "WORDS\n")],
)
def test_records_are_streamed_without_a_limit_of_size(make_file, name, head, line) -> None:
    file = make_file(name, head + 300 * line.replace("WORDS", "word " * 20_000))
    assert file.size > 30_000_000
    tracemalloc.start()
    try:
        documents = sum(1 for _ in read_documents(file, max_bytes=1_000_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert documents == 300
    assert peak < 8_000_000


def test_a_line_over_the_limit_is_an_error_before_it_is_read_whole(read) -> None:
    with pytest.raises(ReadError, match="a line is longer than the limit of 100 characters"):
        read("a.jsonl", lines({"text": "short"}, {"text": "x" * 200}), max_bytes=100)


def test_a_line_over_the_limit_in_a_gzip_is_an_error_too(read) -> None:
    data = gzip.compress(lines({"text": "x" * 200}).encode())
    assert len(data) < 100
    with pytest.raises(ReadError, match="a line is longer than the limit of 100 characters"):
        read("a.jsonl.gz", data, max_bytes=100)


@settings(max_examples=60)
@given(records=st.lists(st.dictionaries(NAMES, VALUES, max_size=5), min_size=1, max_size=5))
def test_any_json_records_become_documents_that_can_be_stored(tmp_path_factory, records) -> None:
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    path.write_text(lines(*records))
    for document in read_documents(CorpusFile(path, "corpus/a.jsonl", 0)):
        assert document.text.strip()
        stored = json.dumps(dict(document.metadata), allow_nan=False, ensure_ascii=False)
        assert json.loads(stored.encode()) == document.metadata
        assert "\0" not in document.text.encode().decode()
        assert document.metadata["row"] == document.part + 1


def test_csv_rows_are_records(read) -> None:
    documents, errors = read(
        "a.csv", '\ufeffTitle,text,year\r\nOne,"said ""so"",\nit did",1999\r\n\r\nTwo,second,\r\n'
    )
    assert facts(documents) == [
        ('said "so",\nit did', {"title": "One", "year": "1999", "row": 1}),
        ("second", {"title": "Two", "row": 3}),
    ]
    assert [document.part for document in documents] == [0, 2]
    assert errors == []


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_csv_is_that_of_its_header(read, delimiter: str) -> None:
    rows = "\n".join(delimiter.join(row) for row in (["id", "text"], ["1", "some words"]))
    documents, _ = read("a.csv", rows)
    assert facts(documents) == [("some words", {"id": "1", "row": 1})]


def test_a_tsv_is_parted_by_tabs_whatever_its_header_says(read) -> None:
    documents, _ = read("a.tsv", "a,b;c,d\ttext\n1\twords\n")
    assert facts(documents) == [("words", {"a,b;c,d": "1", "row": 1})]
    documents, _ = read("b.tsv.gz", gzip.compress(b"id\ttext\n1\twords\n"))
    assert facts(documents) == [("words", {"id": "1", "row": 1})]


def test_columns_without_a_name_of_their_own_are_numbered(read) -> None:
    documents, _ = read("a.csv", ",x,x\n0,1,2\n")
    assert facts(documents) == [
        ("column_1: 0\nx: 1\ncolumn_3: 2", {"column_1": "0", "x": "1", "column_3": "2", "row": 1})
    ]


def test_no_two_columns_end_up_with_one_name(read) -> None:
    documents, _ = read("a.csv", "column_2,,,column_3\n0,1,2,3\n")
    fields = {"column_2": "0", "column_2_": "1", "column_3_": "2", "column_3": "3"}
    assert facts(documents)[0][1] == {**fields, "row": 1}


def test_names_of_columns_have_no_spaces_around_them(read) -> None:
    documents, _ = read("a.csv", "id , text,text \n1,words,other\n")
    assert facts(documents) == [("words", {"id": "1", "column_3": "other", "row": 1})]


def test_a_space_after_a_delimiter_does_not_end_quoting(read) -> None:
    documents, errors = read("a.csv", 'id, text\n1, "one, two"\n2,"  kept"\n')
    assert [document.text for document in documents] == ["one, two", "  kept"]
    assert errors == []


@pytest.mark.parametrize("opening", ["\n", "\r\n \n\n", "\ufeff\n"])
def test_blank_lines_before_the_header_are_skipped(read, opening: str) -> None:
    documents, (error,) = read("a.csv", f"{opening}id;text\n1;words\n2;3;4\n")
    assert facts(documents) == [("words", {"id": "1", "row": 1})]
    assert f"row 2 (line {opening.count(chr(10)) + 3})" in str(error)


@pytest.mark.parametrize("opening", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_delimiter_that_is_named_before_the_header_is_believed(read, name, opening) -> None:
    documents, _ = read(name, f"{opening}a,b,c;text\n1;words\n")
    assert facts(documents) == [("words", {"a,b,c": "1", "row": 1})]


def test_cells_beyond_the_header_may_be_there_if_they_are_empty(read) -> None:
    documents, (error,) = read("a.csv", "id,text\n1,words,, \n2,words,,x\n")
    assert facts(documents) == [("words", {"id": "1", "row": 1})]
    assert str(error) == "corpus/a.csv, row 2 (line 3): 4 fields, but the header has 2"


def test_rows_with_too_many_fields_or_bad_bytes_are_named_and_the_others_read(read) -> None:
    good = "é,é\n".encode() * 10
    documents, errors = read("a.csv", b"text,x\n" + good + b"a,b,c\nonly\n\xff,1\nlast,2\n")
    assert [document.text for document in documents[10:]] == ["only", "last"]
    assert [str(error) for error in errors] == [
        "corpus/a.csv, row 11 (line 12): 3 fields, but the header has 2",
        "corpus/a.csv, row 13 (line 14): not valid utf-8",
    ]


def test_a_quotation_mark_that_is_not_closed_is_an_error_and_swallows_no_rows(read) -> None:
    rows = '\nid,text\n1,"two\nlines"\n2,"5"" pipe\n3,more\n4,last'
    documents, (error,) = read("a.csv", rows)
    assert [document.text for document in documents] == ["two\nlines"]
    assert str(error) == ("corpus/a.csv, row 2 (line 5 to the end): a quotation mark is not closed")
    with pytest.raises(ReadError, match="quotation mark in the header is not closed"):
        read("b.csv", 'id,"text\n1,a\n2,b\n')
    for end in ('"closed"', "plain", "plain\n\n"):
        documents, errors = read("c.csv", f"id,text\n1,{end}")
        assert (len(documents), errors) == (1, [])


def test_huge_csv_fields_are_read(read) -> None:
    text = "word " * 100_000
    documents, _ = read("a.csv", f'text\n"{text}"\n')
    assert [document.text for document in documents] == [text]


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
            st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, rows) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows([("text", "x"), *rows])
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    path.write_text(written.getvalue(), newline="")
    documents = list(read_documents(CorpusFile(path, "corpus/a.csv", 0)))
    # The writer quotes no leading spaces, and the reader skips those that are not quoted.
    assert [d.text.lstrip(" ") for d in documents] == [
        text.lstrip(" ") for text, _ in rows if text.strip()
    ]
