"""A running guest is asked to write down what it holds in memory, before its disk is looked at from outside."""

from __future__ import annotations

import asyncio
import contextlib

from polyvisor.model.faults import Fault
from polyvisor.ports.hypervisor import LiveVm

_LIMIT = 5.0


async def flush(vm: LiveVm) -> None:
    """Best effort: a guest without an agent, or a busy one, is left as after a loss of power."""
    with contextlib.suppress(Fault, OSError, TimeoutError):
        async with asyncio.timeout(_LIMIT):
            await (await vm.guest()).sync(_LIMIT)
