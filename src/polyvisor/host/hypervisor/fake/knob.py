"""The one knob of the fake: faults on request."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from polyvisor.model.faults import Fault
from polyvisor.model.ids import InstanceId


@dataclass(slots=True)
class Knob:
    """`fail[verb]` holds faults, used up one per call; `delay[verb]` seconds before each; `deaf` ones answer nothing;
    `stubborn` guests ignore the power button; `needs`: bytes below which a guest's memory does not go; `calls` tells
    the latest that were made."""

    fail: dict[str, list[Fault]] = field(default_factory=dict)
    delay: dict[str, float] = field(default_factory=dict)
    deaf: set[InstanceId] = field(default_factory=set)
    stubborn: set[InstanceId] = field(default_factory=set)
    needs: dict[InstanceId, int] = field(default_factory=dict)
    calls: deque[tuple[str, InstanceId]] = field(default_factory=lambda: deque(maxlen=10_000))

    async def turn(self, verb: str, id: InstanceId) -> None:
        """What a verb does before it acts. :raise Fault: the scripted one."""
        self.calls.append((verb, id))
        if verb in self.delay:
            await asyncio.sleep(self.delay[verb])
        faults = self.fail.get(verb)
        if faults:
            raise faults.pop(0)
