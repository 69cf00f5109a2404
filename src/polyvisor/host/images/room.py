"""A full disk, said in one way whoever meets it first: our own writes, or a tool that tells of it in its last words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from polyvisor.model.faults import NoCapacity

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("no space left on device", "disk quota exceeded")


def full(private: str = "") -> NoCapacity:
    """The fault."""
    return NoCapacity("image: the disk of this host is full", field="image", private=private)


def says_full(said: str) -> bool:
    """Whether a tool ended for want of room."""
    return any(word in said.lower() for word in _WORDS)


@contextmanager
def needing_room() -> Iterator[None]:
    """:raise NoCapacity: instead of the error of a write that found no room."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full(str(error)) from error
        raise
