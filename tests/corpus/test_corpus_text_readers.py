"""Plain text, Markdown, reStructuredText, source code, HTML, and their encodings."""

from __future__ import annotations

import logging
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreg_rag.corpus import read_documents
from autoreg_rag.corpus.readers.encoding import decode, storable
from autoreg_rag.corpus.readers.html import visible_text
from autoreg_rag.errors import ReadError

FRENCH = "L'été dernier, où étiez-vous ? À côté de la forêt, très près du château. " * 3
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 3
JAPANESE = "色は匂へど散りぬるを我が世誰ぞ常ならむ。有為の奥山今日越えて。" * 3


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.py", "a.unknown"])
def test_text_is_the_files_text_exactly(read, name: str) -> None:
    text = " \r\nline é 😀\r\n\r\n\tend\u2028\x0c\n\n"
    (document,), errors = read(name, text)
    assert document.text == text
    assert (document.source, document.part, errors) == (f"corpus/{name}", 0, [])


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("text", ["", " \n\t\n "])
def test_a_file_without_any_text_has_no_documents(read, name: str, text: str) -> None:
    assert read(name, text) == ([], [])


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# One *two* #\n# Three", "One *two*"),
        ("intro\n\n## C#\ntext", "C#"),
        ("Set in\n======\n", "Set in"),
        ("Set in\r\n---\r\n", "Set in"),
        ("```sh\n# a comment\n```\n# Real\n", "Real"),
        ("~~~\n# never closed\n", None),
        ("---\nauthor: me\n---\n# Real\n", "Real"),
        ("---\nauthor: me\n---\nno heading\n", None),
        ("#hashtag\n\n#\n", None),
        ("    # code\n", None),
        ("# " + "long " * 200, ("long " * 200)[:300].strip()),
    ],
)
def test_the_title_of_markdown_is_its_first_heading(read, text: str, title: str | None) -> None:
    (document,), _ = read("a.md", text)
    assert document.metadata == ({"title": title} if title else {})


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Title\n=====\n\ntext", "Title"),
        ("=======\n Title\n=======\n", "Title"),
        (".. comment\n\nTitle é\r\n-------\r\n", "Title é"),
        ("A sentence that is long.\n---\n", None),
        ("plain\ntext\n", None),
    ],
)
def test_the_title_of_rst_is_its_first_underlined_line(read, text: str, title: str | None) -> None:
    (document,), _ = read("a.rst", text)
    assert document.metadata == ({"title": title} if title else {})


@pytest.mark.parametrize(
    ("name", "language"), [("a.py", "python"), ("a.RS", "rust"), ("a.tsx", "typescript")]
)
def test_source_code_names_its_language(read, name: str, language: str) -> None:
    (document,), _ = read(name, "code")
    assert document.metadata == {"language": language}


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "utf-16"),
        ("utf-32", "utf-32"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.csv"])
def test_marked_encodings_are_read_without_the_mark(
    read, name: str, encoding: str, named: str | None
) -> None:
    (document,), _ = read(name, f"text\n{JAPANESE}".encode(encoding))
    assert JAPANESE in document.text
    assert "\ufeff" not in document.text
    assert document.metadata.get("encoding") == named


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(FRENCH, "cp1252"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8_r"), (JAPANESE, "cp932")],
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_other_encodings_are_guessed_with_a_warning(
    read, caplog, name: str, text: str, encoding: str
) -> None:
    content = {"a.txt": text, "a.csv": f'text\n"{text}"\n', "a.jsonl": f'{{"text": "{text}"}}\n'}
    (document,), _ = read(name, content[name].encode(encoding))
    assert document.text == text
    assert document.metadata["encoding"] == encoding
    assert f"corpus/{name}: not UTF-8; read as {encoding}" in caplog.text


def test_a_late_foreign_byte_in_a_large_file_is_enough_for_a_guess(read) -> None:
    text = "plain words only\n" * 50_000 + FRENCH
    (document,), _ = read("a.txt", text.encode("cp1252"))
    assert document.text == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "Über die Größe der Bäume: der höchste Baum steht in Österreich."),
        ("a.txt", "Über die Größe"),
        ("a.txt", "Le café est fermé.\n"),
        ("a.txt", "Rendez-vous à l'hôtel à 8 h, près de la gare. Merci de prévenir Zoé.\n"),
        ("a.txt", "Meet José at the café."),
        ("a.txt", "café"),
        ("a.csv", "id,text\n1,café\n"),
        ("a.c", "/* © 2004 Foo */\nint main(void) { return 0; }\n"),
    ],
)
def test_short_western_text_is_read_as_such(read, name: str, text: str) -> None:
    (document,), _ = read(name, text.encode("cp1252"))
    assert document.text == ("café" if name == "a.csv" else text)
    assert document.metadata["encoding"] == "cp1252"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Привет мир, это обычный русский текст для проверки.", "cp1251"),
        ("Привет мир, это обычный русский текст для проверки.", "koi8-r"),
        ("Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi w swojej godności.", "cp1250"),
        ("これは日本語の文章です。文字コードの確認をします。", "shift-jis"),
        ("这是一个用于测试的中文文本文件,编码为国标。", "gbk"),
        ("안녕하세요 이것은 시험용 문장입니다.", "euc-kr"),
    ],
)
def test_short_text_of_other_alphabets_is_not_read_as_western(read, text, encoding) -> None:
    (document,), _ = read("a.txt", text.encode(encoding))
    assert document.text == text


@pytest.mark.parametrize("quotes", ["“curly”", "‘curly’", "café", "£5 – 10 €"])
def test_rare_bytes_in_english_are_read_as_typographic_signs(read, quotes: str) -> None:
    text = f"{'It is a plain English text that goes on and on. ' * 40}{quotes} to the end.\n"
    (document,), _ = read("a.txt", text.encode("cp1252"))
    assert document.text == text


def test_utf8_with_a_few_bad_bytes_stays_utf8(read, caplog) -> None:
    data = RUSSIAN.encode() + b"\xff" + JAPANESE.encode()
    (document,), _ = read("a.txt", data)
    assert document.text == f"{RUSSIAN}\ufffd{JAPANESE}"
    assert document.metadata == {}
    assert "corpus/a.txt: 1 places are not valid utf-8" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_warning_is_one_line_whatever_a_file_is_called(read, caplog) -> None:
    for data in ("déjà vu ".encode("cp1252") * 9, RUSSIAN.encode() + b"\xff" + JAPANESE.encode()):
        read("go\x1b[31m\nne.txt", data)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all(message.isprintable() for message in messages)


def test_a_bad_byte_in_a_short_utf8_text_is_just_that(read) -> None:
    text = "Übung macht den Meister. Die größten Bäume stehen in Österreich, über Jürgens Wäldern."
    (document,), _ = read("a.txt", text.encode() + b" \xff.")
    assert document.text == f"{text} \ufffd."


def test_a_few_bytes_that_might_be_damaged_utf8_are_read_as_something(read) -> None:
    assert len(read("a.txt", "éé ".encode() + b"\xff")[0]) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"text\0text",
        bytes(range(256)) * 20,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "text".encode("utf-16-le"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.json", "a.jsonl", "a.csv"])
def test_a_binary_file_is_an_error_that_says_so(read, name: str, data: bytes) -> None:
    with pytest.raises(ReadError, match=rf"^corpus/{name}: a binary file"):
        read(name, data)


def test_noise_without_nul_bytes_is_an_error_too(read) -> None:
    with pytest.raises(ReadError, match="a binary file"):
        read("a.txt", bytes(1 + (7919 * i * i) % 255 for i in range(5000)))


def test_marked_text_that_is_noise_is_an_error(read) -> None:
    with pytest.raises(ReadError, match="damaged utf-16"):
        read("a.txt", b"\xff\xfe" + b"\x00\xd8" * 1000)


@given(st.text(st.characters()))
def test_storable_text_keeps_offsets_and_encodes(text: str) -> None:
    clean = storable(text)
    assert len(clean) == len(text)
    clean.encode()
    assert all(new in (old, "\ufffd") for new, old in zip(clean, text, strict=True))


@given(st.binary(max_size=200))
def test_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        text, encoding = decode(data, "corpus/a.txt")
    except ReadError:
        return
    assert text == data.decode(encoding, "replace")
    assert b"\0" not in data or encoding.startswith("utf-")


def test_a_file_over_the_limit_is_an_error(read) -> None:
    assert len(read("a.txt", "x" * 1000, max_bytes=1000)[0]) == 1
    for name in ("a.txt", "a.html", "a.json", "a.pdf", "a.docx"):
        with pytest.raises(
            ReadError, match=rf"corpus/{name}: larger than the limit of 1,000 bytes"
        ):
            read(name, "x" * 1001, max_bytes=1000)


def test_a_limit_takes_no_memory_of_its_own(read) -> None:
    (document,), _ = read("a.txt", "words", max_bytes=10**15)
    assert document.text == "words"


def test_a_file_that_grows_beyond_its_size_is_read_up_to_the_limit(make_file, monkeypatch) -> None:
    file = make_file("a.txt", "x" * 100_000)
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result([0] * 10))
    (document,) = read_documents(file, max_bytes=100_000)
    assert document.text == "x" * 100_000
    with pytest.raises(ReadError, match="larger than the limit of 99,999 bytes"):
        list(read_documents(file, max_bytes=99_999))


@pytest.mark.parametrize(
    "name", ["a.txt", "a.html", "a.json", "a.jsonl", "a.csv", "a.pdf", "a.docx"]
)
def test_a_file_that_is_gone_is_a_read_error(make_file, name: str) -> None:
    file = make_file(name, "text")
    file.path.unlink()
    with pytest.raises(ReadError, match=f"^corpus/{name}: No such file or directory$"):
        list(read_documents(file))


def test_a_file_without_rights_is_a_read_error(make_file) -> None:
    file = make_file("a.txt", "text")
    file.path.chmod(0)
    if os.access(file.path, os.R_OK):
        pytest.skip("this user may read all, as root does")
    with pytest.raises(ReadError, match=r"^corpus/a.txt: Permission denied$"):
        list(read_documents(file))


def test_errors_of_records_are_logged_by_default(make_file, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(list(read_documents(make_file("a.jsonl", '"one"\n{\n')))) == 1
    assert "corpus/a.jsonl, line 2: not valid JSON" in caplog.text


PAGE = """<!DOCTYPE html><html><head><title>A &amp; B
  title</title><style>p {color: red}</style><script>if (a < b) {"</p>"}</script></head>
<body><h1>Head<em>ing</em></h1><p>One <b>bold</b>word
and   a&nbsp;line<br>break.<p>Two<!-- unseen --><noscript>no</noscript><template>no</template>
<ul><li>first<li>second</ul><table><tr><th>k<td>v<tr><td>1<td>2</table>
<pre>  kept\n    lines</pre><svg><title>drawing</title></svg>After caf&eacute; 😀</body></html>"""


def test_html_gives_its_visible_text_in_blocks(read) -> None:
    (document,), _ = read("a.html", PAGE)
    assert document.text == (
        "Heading\n\nOne boldword and a line\nbreak.\n\nTwo\n\nfirst\nsecond\n\n"
        "k\tv\n1\t2\n\n  kept\n    lines\n\ndrawingAfter café 😀"
    )
    assert document.metadata == {"title": "A & B title"}


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("a.html", "<meta charset=iso-8859-2><p>Zażółć gęślą jaźń.", "iso8859-2"),
        ("a.html", "<meta content='text/html; charset=latin-1'><p>“Été”", "cp1252"),
        (
            "a.xml",
            "<?xml version='1.0' encoding='ISO-8859-2'?><p>Zażółć gęślą jaźń.</p>",
            "iso8859-2",
        ),
        ("a.py", "# -*- coding: iso-8859-2 -*-\nx = 'Zażółć gęślą jaźń.'", "iso8859-2"),
    ],
)
def test_a_declared_encoding_is_believed(
    read, caplog, name: str, content: str, encoding: str
) -> None:
    (document,), _ = read(name, content.encode(encoding))
    assert content.rpartition(">")[2].removeprefix("\n") in document.text
    assert document.metadata["encoding"] == encoding
    assert not caplog.records


@pytest.mark.parametrize("declared", ["utf-8", "utf-16", "hex", "nonsense", "ascii", "undefined"])
def test_a_wrong_declaration_is_not_believed(read, declared: str) -> None:
    page = f"<meta charset={declared}><p>{FRENCH.strip()}</p>"
    (document,), _ = read("a.html", page.encode("cp1252"))
    assert document.text == FRENCH.strip()


@pytest.mark.parametrize(
    "declared", ["unicode_escape", "raw_unicode_escape", "idna", "punycode", "rot13", "cp037"]
)
def test_a_declared_codec_that_is_no_encoding_of_text_is_not_believed(read, declared) -> None:
    text = f"# coding: {declared}\n# {FRENCH}\nprint('\\u0041\\n')\n"
    (document,), _ = read("a.py", text.encode("cp1252"))
    assert document.text == text


@settings(max_examples=50)
@given(
    st.lists(
        st.sampled_from(
            ["<p>", "</p>", "<b>", "<div", ">", "<br/>", "</pre>", "<pre>", "&", "<!--"]
        )
        | st.text(max_size=5)
    ).map("".join)
)
def test_no_markup_is_too_broken_to_be_read(markup: str) -> None:
    text, _ = visible_text(storable(markup))
    assert "<p>" not in text


def test_deeply_nested_html_is_read_to_its_end() -> None:
    page = "<div>" * 5000 + "deep<script>unseen</script>" + "</div>" * 5000 + "<p>after"
    assert "".join(visible_text(page)[0].split()) == "deepafter"
