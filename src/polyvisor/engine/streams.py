"""Streams into an instance: commands, files, console, logs. Authorised here, carried by the host."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.waits import Waits
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, TimedOut, Unavailable, WrongState
from polyvisor.model.guest import Exec, Exit, JournalRecord, Output
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.model.units import Seconds
from polyvisor.ports.guest import Guest, Process
from polyvisor.ports.host import Host

__all__ = ["Guest", "Process", "StreamsEngine"]  # dialects know a guest and its processes by this module

_EXERCISE_LIMIT = Seconds(10.0)
READY_LIMIT = 120.0  # how long a command may wait for a guest that is still coming up


Supply = Callable[[Instance, Guest], Awaitable[Mapping[str, str]]]


class Supplied:
    """A Guest whose commands have further variables, where the caller does not say otherwise."""

    def __init__(self, guest: Guest, env: Mapping[str, str]) -> None:
        self._guest = guest
        self.env = env

    async def execute(self, ask: Exec) -> Process:
        """See Guest."""
        return await self._guest.execute(replace(ask, env={**self.env, **ask.env}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guest, name)


def plain(guest: Guest) -> Guest:
    """The same without them, for what outlives what they hold for."""
    return guest._guest if isinstance(guest, Supplied) else guest


def env_of(guest: Guest) -> Mapping[str, str]:
    """Those further variables."""
    return guest.env if isinstance(guest, Supplied) else {}


class StreamsEngine:
    """Bytes in and out of running machines."""

    def __init__(self, host: Host, instances: InstancesEngine, waits: Waits) -> None:
        self._host = host
        self._instances = instances
        self._waits = waits
        self._watched: Counter[InstanceId] = Counter()
        self.supply: Supply | None = None  # what whoever is run in a guest is told beside what its caller says

    async def guest(self, principal: Principal, key: str) -> Guest:
        """The agent of a running instance, awaited while the guest is coming up.

        :raise WrongState: it does not run. :raise Unavailable: no agent answers.
        """
        instance = await self._instances.get(principal, key, Action.INSTANCE_INTERACT, anew=True)
        if not instance.observed.ready or not instance.settled:
            instance = await self._coming_up(instance)
        if face(instance) is not Face.RUNNING:
            raise WrongState(f"the instance is {face(instance)}")
        guest = await self._host.guest(instance.id)
        if not instance.spec.vaults or self.supply is None:
            return guest
        return cast(Guest, Supplied(guest, await self.supply(instance, guest)))

    async def _coming_up(self, instance: Instance) -> Instance:
        try:
            found = await self._waits.until(instance.id, _decided, READY_LIMIT)
        except TimedOut as error:
            raise Unavailable("no agent answers in the instance") from error
        if found is None:
            raise WrongState("the instance was deleted")
        if face(found) is Face.RUNNING and not found.observed.ready:
            raise Unavailable("no agent answers in the instance")
        return found

    async def execute(self, principal: Principal, key: str, ask: Exec) -> Process:
        """Start a command. :raise WrongState, Unavailable, Invalid:"""
        guest = await self.guest(principal, key)
        return await guest.execute(ask)

    async def exercise(self, principal: Principal, key: str, times: int) -> None:
        """Run a command that does nothing: the first one in a copy is slow, since its code has to be translated anew.

        :raise Fault: the guest does not run it.
        """
        for _ in range(times):
            await self.run(principal, key, Exec(("true",), timeout=_EXERCISE_LIMIT))

    async def sync(self, principal: Principal, key: str) -> None:
        """What its guest has written is on its disk, as far as it says so within a while; else as it is."""
        instance = await self._instances.get(principal, key, Action.INSTANCE_INTERACT)
        if face(instance) is Face.RUNNING and instance.observed.ready:
            with contextlib.suppress(Fault):
                await (await self.guest(principal, key)).sync(_EXERCISE_LIMIT)

    async def run(self, principal: Principal, key: str, ask: Exec) -> tuple[Exit, bytes, bytes]:
        """A command from its beginning to its end, with what it said on 1 and on 2. :raise Fault: as `execute`."""
        process = await self.execute(principal, key, ask)
        said: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        try:
            while isinstance(piece := await process.read(), Output):
                said[piece.fd] += piece.data
        finally:
            await process.close()
        return piece, bytes(said[1]), bytes(said[2])

    async def console(self, principal: Principal, key: str, *, attended: bool = True) -> AsyncIterator[bytes]:
        """What the console said and says, until the machine ends. `attended`: by somebody, which keeps it awake."""
        instance = await self._instances.get(principal, key, Action.INSTANCE_INTERACT)
        said = await self._host.console(instance.id)
        return self._watch(instance.id, said) if attended else said

    async def _watch(self, id: InstanceId, said: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._watched[id] += 1
        try:
            async for chunk in said:
                yield chunk
        finally:
            self._watched[id] -= 1
            if not self._watched[id]:
                del self._watched[id]

    def watched(self, id: InstanceId) -> int:
        """How many look at its console now."""
        return self._watched[id]

    async def type(self, principal: Principal, key: str, data: bytes) -> None:
        """Bytes to the console's input. :raise Unavailable: it does not run."""
        instance = await self._instances.get(principal, key, Action.INSTANCE_INTERACT, anew=True)
        await self._host.type(instance.id, data)

    async def journal(self, principal: Principal, key: str, *, follow: bool) -> AsyncIterator[JournalRecord]:
        """The workload's output; with `follow`, until the instance is neither running nor about to."""
        instance = await self._instances.get(principal, key)
        return self._follow(instance, follow)

    async def _follow(self, instance: Instance, follow: bool) -> AsyncIterator[JournalRecord]:
        over = asyncio.create_task(self._waits.until(instance.id, _over, None))
        try:
            async for record in self._host.journal(instance.id, follow, lambda: not over.done()):
                yield record
        finally:
            over.cancel()
            await asyncio.gather(over, return_exceptions=True)

    async def log_file(self, principal: Principal, key: str) -> Path:
        """The hypervisor's own words."""
        instance = await self._instances.get(principal, key)
        return self._host.log_file(instance.id)


def _decided(instance: Instance) -> bool:
    return (instance.observed.ready and instance.settled) or face(instance) not in (
        Face.CREATING,
        Face.STARTING,
        Face.RUNNING,
        Face.RESUMING,
    )


def _over(instance: Instance) -> bool:
    return face(instance) in (Face.STOPPED, Face.FAILED, Face.DELETING) and instance.observed.restart_at is None
