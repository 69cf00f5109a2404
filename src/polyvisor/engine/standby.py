"""Standby by idleness: who is idle is put to sleep, and who is called wakes up, both in the operator's name.

How long an instance was idle is on no record: a server that begins anew counts anew. Nor is a hold, which ends then as
the countdown begins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic

from polyvisor.engine.instances import InstancesEngine, Until
from polyvisor.engine.power import PowerEngine
from polyvisor.engine.waits import Waits
from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, Unavailable, WrongState
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.network import NetworkMode
from polyvisor.model.principal import SYSTEM, Action, Principal
from polyvisor.model.standby import Inbound, Stand, StandbyPolicy, StandbyStatus, Why, counted
from polyvisor.model.units import Seconds
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
AT_ONCE = 4  # instances that are put into standby at the same time
_SHARE = 20  # looking at all instances takes at most this part of the time
_WAKE_LIMIT = 110.0
_COMING_UP = timedelta(minutes=5)
_ON_THE_WAY = frozenset({Face.SUSPENDING, Face.RESUMING, Face.STARTING, Face.CREATING, Face.PAUSING})


@dataclass
class _Track:
    """What is known of a running instance; of another run nothing is."""

    run: tuple[int, datetime | None]
    since: datetime
    active: int = 0
    last: datetime | None = None
    begun: int = 0
    held: datetime | None = None
    error: bool = False

    def due(self, idle: Seconds) -> datetime:
        """When it may be put into standby."""
        end = self.since + timedelta(seconds=idle)
        return end if self.held is None else max(end, self.held)


class StandbyEngine:
    """A chore of the keeper, a task that follows knocks, and two verbs."""

    def __init__(  # noqa: PLR0913 - each is needed
        self, store: Store, host: Host, clock: Callable[[], datetime], instances: InstancesEngine, power: PowerEngine,
        waits: Waits, mode: NetworkMode, watched: Callable[[InstanceId], int],
    ) -> None:  # fmt: skip
        self._store = store
        self._host = host
        self._clock = clock
        self._instances = instances
        self._power = power
        self._waits = waits
        self._watched = watched  # how many look at its console
        self.mode = mode  # who sees connections differs with it
        self._tracks: dict[InstanceId, _Track] = {}
        self._turn = asyncio.Lock()  # a hold that was granted holds
        self._waking: dict[InstanceId, asyncio.Task[None]] = {}
        self._told: dict[InstanceId, str] = {}
        self._rest_until = 0.0

    # -- idle ----------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Look at all that have a policy, and put those that are idle for long enough into standby."""
        begun = monotonic()
        if begun < self._rest_until:
            return
        async with self._store.read() as unit:
            found = await unit.instances.having("standby")
        self._rest_until = monotonic() + (monotonic() - begun) * _SHARE
        for id in self._tracks.keys() - {i.id for i in found}:
            del self._tracks[id]
        asleep = sum(face(i) is Face.SUSPENDING for i in found)
        for instance in found:
            if face(instance) is Face.SUSPENDED:
                await self._guard(instance)
            elif _may_be_put(instance):
                asleep += await self._consider(instance) if asleep < AT_ONCE else 0

    async def _guard(self, instance: Instance) -> None:
        try:
            await self._host.entrance.guard(blueprint_of(instance))
            self._told.pop(instance.id, None)
        except Fault as fault:
            if self._told.get(instance.id) != fault.public:
                log.warning("%s: cannot be woken by who connects: %s", instance.id, fault.public)
            self._told[instance.id] = fault.public

    async def _consider(self, instance: Instance) -> bool:
        """Whether it was put into standby. It is looked at again behind the shut door: nobody slips in between."""
        track, policy = await self._look(instance), instance.spec.standby
        assert policy is not None
        assert policy.idle is not None
        await self._guard(instance)
        if track.error or track.active or self._clock() < track.due(policy.idle):
            return False
        async with self._turn:
            self._host.entrance.shut(instance.id)
            try:
                track = await self._look(instance)
                if not (track.error or track.active or self._clock() < track.due(policy.idle)):
                    log.info("%s: idle since %s: into standby", instance.id, track.since.isoformat())
                    await self._power.suspend(SYSTEM, instance.id)
                    return True
            except Fault as fault:
                log.warning("%s: is idle and cannot be put into standby: %s", instance.id, fault.public)
                track.since = self._clock()
            self._host.entrance.open(instance.id)
        return False

    async def _look(self, instance: Instance) -> _Track:
        """Who wants something of it, noted."""
        now, policy = self._clock(), instance.spec.standby
        assert policy is not None
        run = (instance.observed.incarnation, instance.observed.booted)
        track = self._tracks.get(instance.id)
        if track is None or track.run != run:
            track = self._tracks[instance.id] = _Track(run, now)
        try:
            inbound = await self._host.entrance.inbound(instance.id)
            track.error = False
        except Exception as error:
            log.warning("%s: who wants something of it cannot be seen: %r", instance.id, error)
            track.error = True
            return track
        _note(track, replace(inbound, sessions=inbound.sessions + self._watched(instance.id)), policy, now)
        if _comes_up(instance, now):
            track.since = now
        return track

    # -- verbs ---------------------------------------------------------------------------------------------------

    async def status(self, principal: Principal, key: str) -> StandbyStatus:
        """Where it stands. :raise NotFound:"""
        return await self._status(await self._instances.get(principal, key))

    async def hold(self, principal: Principal, key: str) -> StandbyStatus:
        """Not before `idle` seconds from now; the latest hold counts. Where nothing would happen nothing is held.

        :raise NotFound: :raise WrongState: it is in standby, or about to be.
        """
        async with self._turn:
            instance = await self._instances.get(principal, key, Action.INSTANCE_OPERATE)
            if face(instance) is Face.SUSPENDED:
                raise WrongState("instance is in standby; restore it before connecting")
            if face(instance) is Face.SUSPENDING:
                raise WrongState("instance standby is in progress; restore it before connecting")
            policy = instance.spec.standby
            if policy is not None and policy.enabled and policy.idle and _may_be_put(instance):
                (await self._look(instance)).held = self._clock() + timedelta(seconds=policy.idle)
            return await self._status(instance)

    async def _status(self, instance: Instance) -> StandbyStatus:
        policy, now = instance.spec.standby, self._clock()
        if policy is None or not policy.enabled or policy.idle is None:
            return StandbyStatus(policy, Stand.DISABLED, Why.NO_POLICY if policy is None else Why.OFF)
        if face(instance) is Face.SUSPENDING:
            return StandbyStatus(policy, Stand.REQUESTED, Why.READY)
        if face(instance) is not Face.RUNNING:
            return StandbyStatus(policy, Stand.INELIGIBLE, Why.NOT_RUNNING)
        if instance.address is None:
            return StandbyStatus(policy, Stand.INELIGIBLE, Why.NO_NETWORK)
        track = await self._look(instance)
        held = track.held if track.held is not None and track.held > now else None
        if track.error:
            return StandbyStatus(policy, Stand.ERROR, Why.UNSEEN, last=track.last, held=held)
        if track.active:
            return StandbyStatus(policy, Stand.ACTIVE, Why.CONNECTIONS, track.active, last=track.last, held=held)
        due = track.due(policy.idle)
        stand, why = (Stand.READY, Why.READY) if due <= now else (Stand.COUNTDOWN, Why.COUNTDOWN)
        left = Seconds(max(0.0, (due - now).total_seconds()))
        return StandbyStatus(policy, stand, why, 0, track.since, track.last, due, held, left)

    # -- waking --------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Wake whoever is called, until cancelled."""
        try:
            async for id in self._host.entrance.knocks():
                if id not in self._waking:
                    task = self._waking[id] = asyncio.create_task(self._wake(id), name=f"waking {id}")
                    task.add_done_callback(lambda _, id=id: self._waking.pop(id, None))  # type: ignore[misc]  # the one of this round
        finally:
            for task in list(self._waking.values()):
                task.cancel()

    async def _wake(self, id: InstanceId) -> None:
        """Those who wait are let in, or told that nobody comes, and the log says why."""
        try:
            await self._woken(id)
            self._host.entrance.open(id)
        except Exception as error:
            why = error.public if isinstance(error, Fault) else repr(error)
            count = self._host.entrance.turn_away(id)
            log.warning("%s: cannot be woken, %d connections are reset: %s", id, count, why)

    async def rouse(self, id: InstanceId) -> None:
        """Once it runs; where it is in standby it goes on, whoever put it there and whatever its policy: somebody was
        sent to it by name. :raise Unavailable: it does not run, and is not about to. :raise Fault: it cannot go on."""
        await self._woken(id, invited=True)
        self._host.entrance.open(id)

    async def _woken(self, id: InstanceId, *, invited: bool = False) -> None:
        end = monotonic() + _WAKE_LIMIT
        while True:
            left = max(0.1, end - monotonic())
            found = await self._waits.until(id, lambda i: face(i) not in _ON_THE_WAY, left)
            now = Face.DELETING if found is None else face(found)
            if now is Face.RUNNING:
                return
            if found is None or now is not Face.SUSPENDED:
                raise Unavailable(f"the instance is {now}")
            if not invited and (found.spec.standby is None or not found.spec.standby.enabled):
                raise Unavailable("its policy does not ask for it any more")
            log.info("%s: somebody connects: it goes on", id)
            asked = await self._power.resume(SYSTEM, id)
            await self._instances.settle(asked, Until.LAUNCHED, left)


def _may_be_put(instance: Instance) -> bool:
    policy = instance.spec.standby
    enabled = policy is not None and policy.enabled and instance.address is not None
    at_rest = face(instance) is Face.RUNNING and instance.settled and instance.operation is None
    return enabled and at_rest and not instance.spare


def _comes_up(instance: Instance, now: datetime) -> bool:
    """Whether its guest is on the way: it is not idle. One that has no agent is never ready."""
    booted = instance.observed.booted
    return not instance.observed.ready and (booted is None or now - booted < _COMING_UP)


def _note(track: _Track, inbound: Inbound, policy: StandbyPolicy, now: datetime) -> None:
    track.active = counted(inbound.open, policy) + inbound.sessions
    if track.active or counted(inbound.past, policy) or inbound.begun != track.begun:
        track.since = track.last = now
    track.begun = inbound.begun
