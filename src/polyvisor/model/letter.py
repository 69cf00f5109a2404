"""`Letter`: what is posted to an address that a caller named, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Letter:
    """`timeout` is in seconds, for all of it."""

    url: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeout: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """`status` is HTTP's; None: there was no answer, and `error` says why. What else was said is not read."""

    status: int | None = None
    error: str = ""

    @property
    def taken(self) -> bool:
        """Whether it arrived."""
        return self.status is not None and 200 <= self.status < 300
