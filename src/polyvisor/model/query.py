"""Questions to the store: a page, a cursor, filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A run of rows and the cursor of the next; None at the end."""

    items: tuple[T, ...]
    next: str | None
