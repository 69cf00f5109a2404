"""What a dialect keeps with a thing of ours: another name for it, and what it must give back and nobody here reads."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Foreign:
    """`remainder` is JSON that only the dialect reads.

    `alias` is (kind, foreign id): it has one meaning at most in a project, a dialect and a kind. Both go when the thing
    goes.
    """

    dialect: str
    remainder: str = field(default="", repr=False)
    alias: tuple[str, str] | None = None
