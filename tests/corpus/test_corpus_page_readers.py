"""PDF and Word documents."""

from __future__ import annotations

import re
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZipFile

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from autoreg_rag.corpus import read_documents
from autoreg_rag.errors import ReadError


def pdf(*pages: str, title: str = "", password: str | None = None, broken: int = 0) -> bytes:
    """Write a PDF; the page numbered `broken` has a stream that cannot be unpacked."""
    writer = PdfWriter()
    font = writer._add_object(
        DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
    )
    for number, text in enumerate(pages, start=1):
        page = writer.add_blank_page(612, 792)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode("latin-1"))
        if number == broken:
            content[NameObject("/Filter")] = NameObject("/NoSuchFilter")
        page[NameObject("/Contents")] = writer._add_object(content)
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    data = BytesIO()
    writer.write(data)
    return data.getvalue()


def word(title: str = "") -> docx.document.Document:
    document = docx.Document()
    document.core_properties.title = title
    return document


def written(document: docx.document.Document) -> bytes:
    data = BytesIO()
    document.save(data)
    return data.getvalue()


def test_a_pdf_is_a_document_per_page_with_its_number_and_title(read) -> None:
    documents, errors = read("a.pdf", pdf("Page one", "", "Page three", title="The title"))
    assert [(document.text, document.part, dict(document.metadata)) for document in documents] == [
        ("Page one", 0, {"title": "The title", "page": 1}),
        ("Page three", 2, {"title": "The title", "page": 3}),
    ]
    assert errors == []


def test_a_pdf_whose_title_is_malformed_is_read_without_it(read) -> None:
    data = pdf("Page one", title="The title")
    malformed = re.sub(rb"/Info \d+ 0 R", b"/Info (abc)", data)
    assert malformed != data
    (document,), errors = read("a.pdf", malformed)
    assert document.text == "Page one"
    assert document.metadata == {"page": 1}
    assert errors == []


def test_an_encrypted_pdf_is_an_error_that_says_so(read) -> None:
    with pytest.raises(ReadError, match=r"^corpus/a.pdf: encrypted"):
        read("a.pdf", pdf("secret", password="password"))


def test_a_pdf_that_only_restricts_its_use_is_read(read) -> None:
    (document,), _ = read("a.pdf", pdf("readable", password=""))
    assert document.text == "readable"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_pdf_is_an_error_in_one_line(read, caplog, share: float) -> None:
    data = pdf("Page one", "Page two")
    with pytest.raises(ReadError, match=r"^corpus/a.pdf: damaged or malformed \(") as caught:
        read("a.pdf", data[: int(len(data) * share)])
    assert "\n" not in str(caught.value)
    assert not caplog.records


@pytest.mark.parametrize(
    "data", [b"garbage", b"%PDF-1.7\n" + bytes(range(256)) * 8, b"%PDF\n%%EOF"]
)
def test_garbage_that_is_named_pdf_is_an_error(read, data: bytes) -> None:
    with pytest.raises(ReadError, match=r"^corpus/a.pdf: damaged or malformed"):
        read("a.pdf", data)


def test_a_broken_page_is_an_error_of_its_own(read) -> None:
    documents, (error,) = read("a.pdf", pdf("one", "two", "three", broken=2))
    assert [document.metadata["page"] for document in documents] == [1, 3]
    assert str(error).startswith("corpus/a.pdf, page 2: damaged or malformed")


def test_a_pdf_of_broken_pages_only_is_an_error(read) -> None:
    with pytest.raises(ReadError, match="none of its 1 records"):
        read("a.pdf", pdf("one", broken=1))


def test_a_pdf_without_text_has_no_documents_and_a_warning(read, caplog) -> None:
    assert read("a.pdf", pdf("", "")) == ([], [])
    assert "corpus/a.pdf: no text in it" in caplog.text


def test_a_docx_gives_paragraphs_and_tables_in_order(read) -> None:
    document = word("The title")
    document.add_heading("Heading", 1)
    document.add_paragraph("Paragraph é")
    document.add_paragraph(" ")
    table = document.add_table(2, 2)
    table.cell(0, 0).text = "a"
    table.cell(0, 1).text = "b"
    table.cell(1, 0).merge(table.cell(1, 1)).text = "merged"
    table.cell(0, 1).add_table(1, 1).cell(0, 0).text = "nested"
    document.add_paragraph("After 😀")
    (read_back,), errors = read("a.docx", written(document))
    assert read_back.text == "Heading\n\nParagraph é\n\na\tb\nnested\nmerged\n\nAfter 😀"
    assert read_back.metadata == {"title": "The title"}
    assert errors == []


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def control(content: str) -> str:
    """A content control; Word puts one around runs, paragraphs, rows and cells alike."""
    properties = '<w:sdtPr><w:alias w:val="unseen"/></w:sdtPr>'
    return f"<w:sdt>{properties}<w:sdtContent>{content}</w:sdtContent></w:sdt>"


def cell(text: str) -> str:
    return f"<w:tc><w:p>{run(text)}</w:p></w:tc>"


def from_markup(blocks: str) -> bytes:
    document = word()
    for block in parse_xml(f"<w:body {nsdecls('w')}>{blocks}</w:body>"):
        document.element.body.insert_element_before(block, "w:sectPr")
    return written(document)


@pytest.mark.parametrize(
    ("inline", "text"),
    [
        (f"<w:ins>{run('inserted')}</w:ins>", "a inserted z"),
        (f"<w:moveTo>{run('moved')}</w:moveTo>", "a moved z"),
        (f"<w:ins>{control(run('both'))}</w:ins>", "a both z"),
        (control(run("controlled")), "a controlled z"),
        (control(control(run("twice"))), "a twice z"),
        (f"<w:smartTag><w:smartTagPr/>{run('tagged')}</w:smartTag>", "a tagged z"),
        (f'<w:fldSimple w:instr=" PAGE ">{run("12")}</w:fldSimple>', "a 12 z"),
        (f"<w:hyperlink><w:ins>{run('linked')}</w:ins></w:hyperlink>", "a linked z"),
        (f"<w:bdo>{run('turned')}</w:bdo>", "a turned z"),
        (f"<w:del>{run('deleted')}</w:del>", "a  z"),
        (f"<w:moveFrom>{run('moved')}</w:moveFrom>", "a  z"),
        (f"<w:ins><w:del>{run('taken back')}</w:del></w:ins>", "a  z"),
        (
            f"<w:r><w:pict><w:txbxContent><w:p>{run('box')}</w:p></w:txbxContent></w:pict></w:r>",
            "a  z",
        ),
    ],
)
def test_a_docx_gives_the_text_as_its_last_revision_shows_it(read, inline: str, text: str) -> None:
    (document,), errors = read("a.docx", from_markup(f"<w:p>{run('a ')}{inline}{run(' z')}</w:p>"))
    assert document.text == text
    assert errors == []


def test_a_docx_gives_blocks_rows_and_cells_of_content_controls_in_order(read) -> None:
    controlled = control(f"<w:tr>{cell('c')}{cell('d')}</w:tr>")
    rows = f"<w:tr>{cell('a')}{control(cell('b'))}</w:tr>{controlled}"
    table = f"<w:tbl><w:tblGrid><w:gridCol/><w:gridCol/></w:tblGrid>{rows}</w:tbl>"
    paragraphs = [f"<w:p>{run(text)}</w:p>" for text in ("one", "two", "three", "four")]
    blocks = (
        f"{paragraphs[0]}{control(paragraphs[1] + control(table))}"
        f"<w:customXml>{paragraphs[2]}</w:customXml>{paragraphs[3]}"
    )
    (document,), _ = read("a.docx", from_markup(blocks))
    assert document.text == "one\n\ntwo\n\na\tb\nc\td\n\nthree\n\nfour"


def test_an_empty_docx_has_no_documents(read) -> None:
    assert read("a.docx", written(word())) == ([], [])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_docx_is_an_error(read, share: float) -> None:
    data = written(word())
    with pytest.raises(ReadError, match=r"^corpus/a.docx: damaged or malformed \(BadZipFile"):
        read("a.docx", data[: int(len(data) * share)])


def test_an_encrypted_docx_is_an_error_that_says_so(read) -> None:
    with pytest.raises(ReadError, match=r"^corpus/a.docx: encrypted, or in Word's old format"):
        read("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000))


def test_a_zip_that_is_no_docx_is_an_error(read) -> None:
    data = BytesIO()
    with ZipFile(data, "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(ReadError, match=r"^corpus/a.docx: damaged or malformed"):
        read("a.docx", data.getvalue())


def test_a_docx_that_unpacks_to_too_much_is_an_error(make_file) -> None:
    data = BytesIO(written(word()))
    with ZipFile(data, "a", ZIP_DEFLATED) as archive:
        archive.writestr("word/bomb.xml", "0" * 5_000_000)
    file = make_file("a.docx", data.getvalue())
    with pytest.raises(ReadError, match="unpacks to more than the limit"):
        list(read_documents(file, max_bytes=1_000_000))
