"""Tables that must be total: checked when the module that declares one is imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def total(table: Mapping[K, V], keys: Collection[K], what: str) -> Mapping[K, V]:
    """`table`, when it answers for exactly `keys`.

    :raise LookupError: naming what is missing or too much. At import, so a gap never reaches a caller.
    """
    missing = [str(key) for key in keys if key not in table]
    extra = [str(key) for key in table if key not in keys]
    if missing or extra:
        raise LookupError(f"{what}: missing {missing}, not wanted {extra}")
    return table
