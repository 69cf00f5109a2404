"""The first words of a TLS connection, read for one thing: which host is meant. Pure."""

from __future__ import annotations

import re

LONGEST = 17 * 1024  # bytes that are looked at
_LONGEST_NAME = 253
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0


class More(Exception):
    """It is not all here yet."""


class _Words:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) < size:
            raise More
        self.at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def block(self, size: int) -> _Words:
        """What follows its own length, which is so many bytes long."""
        return _Words(self.take(self.number(size)))

    @property
    def over(self) -> bool:
        return self.at >= len(self.data)


def host_in(data: bytes) -> str | None:
    """The name of the host; None: this is no such beginning, or it names none. :raise More:"""
    words, message = _Words(data), b""
    while True:
        if words.number(1) != _HANDSHAKE or words.number(1) != 3:
            return None
        words.take(1)
        message += words.block(2).data
        if message[:1] != bytes([_CLIENT_HELLO]):
            return None
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4]):
            break
        if len(message) > LONGEST:
            return None
    try:
        return _named(_Words(message[4 : 4 + int.from_bytes(message[1:4])]))
    except More:  # it says that it is longer than it is
        return None


def _named(hello: _Words) -> str | None:
    hello.take(2 + 32)
    hello.block(1)
    hello.block(2)
    hello.block(1)
    extensions = hello.block(2)
    while not extensions.over:
        kind, inside = extensions.number(2), extensions.block(2)
        if kind != _SERVER_NAME:
            continue
        names = inside.block(2)
        while not names.over:
            which, name = names.number(1), names.block(2).data
            if which == _HOST_NAME:
                return _said(name)
    return None


def _said(name: bytes) -> str | None:
    """What is no name of the DNS is none that anybody keeps credentials for."""
    host = name.decode("ascii", "replace").lower().removesuffix(".")
    return host if len(host) <= _LONGEST_NAME and _NAME.fullmatch(host) else None
