"""Requests and results: key NUL value NUL …, a form that C reads without a parser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from polyvisor.model.faults import Invalid


def pack(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of a list of pairs; keys may repeat. :raise Invalid: a NUL or half a surrogate pair in a text."""
    return b"".join(_text(key) + b"\0" + _text(value) + b"\0" for key, value in pairs)


def _text(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise Invalid("the text is not valid Unicode") from error
    if b"\0" in data:
        raise Invalid("a text must not hold a NUL character")
    return data


def unpack(data: bytes) -> Iterator[tuple[str, str]]:
    """The pairs; bytes that are no UTF-8 are replaced, and a key without a value is left out."""
    words = data.decode(errors="replace").split("\0")[:-1]
    yield from zip(words[::2], words[1::2], strict=False)
