"""From bytes to text: which encoding, and what is no text at all."""

from __future__ import annotations

import codecs
import logging
import re

from autoreg_rag.corpus.files import shown
from autoreg_rag.errors import ReadError

logger = logging.getLogger(__name__)

_UTF8 = "utf-8"
_WESTERN = "cp1252"

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_GUESS_BYTES = 1 << 18
"""How much of a file that is not UTF-8 its encoding is guessed from."""

_DECLARATION = re.compile(rb"""(?:charset|coding)\s*[=:]\s*["']?(?!utf)([\w.-]+)""", re.IGNORECASE)
"""As in HTML, XML and Python. UTF of any kind would have been found without it."""

_ESCAPE = rb"\u0041"
"""Python's codecs for escapes read it as another text, and decode any bytes at all."""

_DECLARATION_BYTES = 1024
"""Where browsers look for it."""

_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
"""What is no character (a lone surrogate), or one that databases refuse (NUL)."""


def storable(text: str) -> str:
    """Give `text` with U+FFFD for NULs and lone surrogates, so that its offsets stay.

    JSON, PDF and file names can hold both; no UTF-8 holds a surrogate.
    """
    return _NOT_STORABLE.sub("\ufffd", text)


def encoding_metadata(encoding: str) -> dict[str, str]:
    """Give ``{"encoding": ...}`` for any but UTF-8, with or without a mark; else {}."""
    return {} if encoding.startswith(_UTF8) else {"encoding": encoding}


def decode(data: bytes, source: str) -> tuple[str, str]:
    """Decode a whole file.

    Parameters
    ----------
    data
        Its bytes.
    source
        Its name, for messages.

    Returns
    -------
    text, encoding
        The text, without a byte order mark, and Python's name of the encoding.
        A few bytes that are not in the encoding become U+FFFD, with a warning.

    Raises
    ------
    ReadError
        It is a binary file.
    """
    encoding = detect(data, source)
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
    if _is_hardly_text(text):
        raise ReadError(f"{source}: a binary file, or damaged {encoding} text")
    damaged = text.count("\ufffd")
    logger.warning("%s: %d places are not valid %s", shown(source), damaged, encoding)
    return text, encoding


def detect(data: bytes, source: str, *, whole: bool = True) -> str:
    """Tell the encoding of a file: by its mark, UTF-8, what it declares, or a guess.

    Parameters
    ----------
    data
        The file's bytes, or its first ones.
    source
        Its name, for messages.
    whole
        False where `data` may end in the middle of a character.

    Returns
    -------
    str
        Python's name of the encoding. That of a guess is logged as a warning.

    Raises
    ------
    ReadError
        It is a binary file: one that holds NUL bytes, or fits no encoding.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    if b"\0" in data:
        raise ReadError(f"{source}: a binary file")
    try:
        codecs.getincrementaldecoder(_UTF8)().decode(data, final=whole)
        return _UTF8
    except UnicodeDecodeError as error:
        if _is_damaged_utf8(data):
            return _UTF8
        if declared := _declared(data if whole else data[: data.rfind(b"\n")]):
            return declared
        guess = _guess(data, error.start)
    if guess is None:
        raise ReadError(f"{source}: a binary file, or text in an encoding that is not known")
    logger.warning("%s: not UTF-8; read as %s, which is a guess", shown(source), guess)
    return guess


def _is_hardly_text(text: str) -> bool:
    """Tell what has too many bytes that could not be decoded."""
    return text.count("\ufffd") > len(text) // 10


def _is_damaged_utf8(data: bytes) -> bool:
    """Tell UTF-8 with some bad bytes: in other encodings, few bytes form a valid sequence."""
    text = data.decode(_UTF8, "replace")
    bad = text.count("\ufffd")
    good = len(text) - len(text.encode("ascii", "ignore")) - bad
    return good > bad and not _is_hardly_text(text)


def _declared(data: bytes) -> str | None:
    """Find an encoding that a page or a program declares, if it is right."""
    match = _DECLARATION.search(data, 0, _DECLARATION_BYTES)
    if match is None:
        return None
    try:
        encoding = codecs.lookup(match[1].decode()).name
        encoding = _WESTERN if encoding == "iso8859-1" else encoding  # as browsers do
        # The declaration was found as ASCII, so that is how its encoding has to read it.
        probe = match[0] + _ESCAPE
        if probe.decode(encoding) != probe.decode("ascii"):
            return None
        data.decode(encoding)
    except (LookupError, UnicodeError):
        return None
    return encoding


def _guess(data: bytes, first: int) -> str | None:
    """Guess the encoding from what surrounds the first byte that is not UTF-8."""
    from charset_normalizer import from_bytes

    if len(data) > _GUESS_BYTES:
        start = data.rfind(b"\n", 0, first) + 1
        data = data[start : start + _GUESS_BYTES]
    if len(data.decode("ascii", "ignore")) > 0.99 * len(data):
        return _WESTERN  # typographic quotes in English, say: too little to guess from
    matches = from_bytes(data)
    # Where several Latin alphabets fit, it is most often that of Western Europe,
    # which the library puts behind rarer ones, or in one match with those that agree.
    if any(_WESTERN in match.could_be_from_charset for match in matches):
        return _WESTERN
    best = matches.best()
    return best.encoding if best is not None else None
