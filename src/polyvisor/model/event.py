"""`Event`: a fact others may follow, numbered so that a listener can resume where it left off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is noun.verb such as `instance.running`; `seq` is 0 until the store has numbered it."""

    kind: str
    project: str
    subject: str
    at: datetime
    data: Mapping[str, str] = field(default_factory=dict)
    seq: int = 0
