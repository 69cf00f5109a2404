"""Callers' words as they can be sent back."""

from __future__ import annotations

_LONGEST = 2000


def clean(text: str, longest: int = _LONGEST) -> str:
    """The text, as long as that at most: callers' words come back in messages, and not all of them are Unicode."""
    return text[:longest].encode(errors="replace").decode()
