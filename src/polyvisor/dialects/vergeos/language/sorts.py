"""The text of `sort`: paths with `+` or `-` before them, by commas (vergeos.md §1.8)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from polyvisor.dialects.vergeos.language.errors import invalid

_LONGEST = 1024
_MOST = 8
_PATH = re.compile(r"[A-Za-z0-9_$]+(#[A-Za-z0-9_$]+){0,7}")


@dataclass(frozen=True, slots=True)
class Order:
    """By what, and which way."""

    path: tuple[str, ...]
    descending: bool = False


def parse_sort(text: str) -> tuple[Order, ...]:
    """The orders, the weightiest first. A blank before a name is a plus that was decoded. :raise Refusal: 422."""
    if len(text) > _LONGEST:
        raise invalid()
    orders = []
    for part in text.split(","):
        word = part.strip()
        if word in ("", "+", "-"):
            continue
        descending = word[0] == "-"
        path = word[1:] if word[0] in "+-" else word
        if not _PATH.fullmatch(path):
            raise invalid()
        orders.append(Order(tuple(path.split("#")), descending))
    if len(orders) > _MOST:
        raise invalid()
    return tuple(orders)
