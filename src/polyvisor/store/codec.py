"""Dataclasses to and from what columns hold.

pydantic's compiled validators do the work, over the model's plain dataclasses: the model itself stays free of
it. A field that a row of an older version lacks gets its default; one that this version does not know is left
out. What is decoded is immutable, so equal texts share one value: most of a page's specs and intents are
such.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Generic, TypeVar

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from polyvisor.model.compression import Packed
from polyvisor.model.faults import Invalid
from polyvisor.model.instance import Address, Intent, Mount, Observed
from polyvisor.model.spec import Spec

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LONG = 8 * 1024  # a longer text is not kept: thousands of the longest specs would be a gigabyte


class Codec(Generic[T]):
    """One type's way into a text column and back."""

    def __init__(self, kind: type[T], remember: int = 0) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        plain: Callable[[str], T] = self._adapter.validate_json
        self._plain = plain
        self._kept = lru_cache(remember)(plain) if remember else plain

    def encode(self, value: T) -> str:
        """JSON text.

        :raise Invalid: a text in it is not Unicode (half a surrogate pair, which JSON requests can smuggle
        in).
        """
        try:
            return self._adapter.dump_json(value, warnings="error").decode()
        except PydanticSerializationError as exc:
            if "surrogates" in str(exc):
                raise Invalid("a text is not valid Unicode", private=str(exc)) from exc
            raise

    def decode(self, text: str) -> T:
        """The value again, equal to what was encoded."""
        return self._kept(text) if len(text) <= _LONG else self._plain(text)


spec = Codec(Spec, remember=8192)
intent = Codec(Intent, remember=8192)
observed = Codec(Observed, remember=8192)
packed = Codec(Packed)
address = Codec(Address, remember=8192)
mounts: Codec[tuple[Mount, ...]] = Codec(tuple[Mount, ...])
words: Codec[tuple[str, ...]] = Codec(tuple[str, ...])
texts: Codec[Mapping[str, str]] = Codec(dict[str, str])


def micros(moment: datetime) -> int:
    """Whole microseconds since 1970 UTC: exact, unlike a float."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(micros: int) -> datetime:
    """The time `micros` stands for, in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def micros_or_none(moment: datetime | None) -> int | None:
    """As `micros`, for a column that may be empty."""
    return None if moment is None else micros(moment)


def moment_or_none(micros: int | None) -> datetime | None:
    """As `moment`, for a column that may be empty."""
    return None if micros is None else moment(micros)


def marks(labels: Iterable[tuple[str, str]]) -> list[str]:
    """What labels are found by: one hash for each different pair."""
    return sorted({hashlib.sha256(json.dumps(pair).encode()).hexdigest() for pair in labels})
