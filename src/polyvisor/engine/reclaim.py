"""Reclaim: guests lend memory when the host runs short of it, or when an operator wants it back for a while.

What is lent is a fact of running machines and of no record: a server that begins anew asks them, and what nobody wants
any more goes back. A hold ends with the server, as it would have ended by itself soon. What an owner leaves an instance
of its memory (`Spec.allowance`) is on record; it lends of that alone, and is asked for the rest each time it has begun.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from polyvisor.access.grants import require, require_operator
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, Unsupported
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action as Grant
from polyvisor.model.principal import Principal
from polyvisor.model.reclaim import (
    Action,
    Outcome,
    Policy,
    Pressure,
    Reclaimed,
    Wanted,
    check_wanted,
    next_lent,
    targets,
)
from polyvisor.model.units import Bytes
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
EVERY = timedelta(seconds=5)  # a guest needs a moment to give anything


class ReclaimEngine:
    """A verb for operators, and a chore of the keeper."""

    def __init__(self, store: Store, host: Host, clock: Callable[[], datetime], policy: Policy) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self._policy = policy
        self._turn = asyncio.Lock()
        self._lent = 0  # because of pressure
        self._held = 0  # because an operator wants it, until:
        self._until: datetime | None = None
        self._asked: dict[tuple[InstanceId, int], Bytes] = {}  # by instance and run: what it was asked last
        self._next: datetime | None = None
        self._known = False  # what an earlier server asked for, or whether all obeyed
        self._some = False  # have an allowance

    async def reclaim(self, principal: Principal, wanted: Wanted) -> Reclaimed:
        """Let guests lend so much together, until the hold is over; another call takes the place of an earlier one, and
        one for 0 bytes ends it. What is lent because of pressure counts in.

        :raise Forbidden: the caller is no operator. :raise Invalid:
        """
        require_operator(principal)
        require(principal, Grant.HOST_ALTER)
        check_wanted(wanted)
        async with self._turn:
            until = self._clock() + timedelta(seconds=wanted.hold) if wanted.bytes else None
            if not wanted.dry_run:
                self._held, self._until = wanted.bytes, until
                log.info("%s reclaims %d bytes: %s", principal.name, wanted.bytes, wanted.reason or "no reason given")
            actions = await self._apply(max(self._lent, wanted.bytes), dry_run=wanted.dry_run)
            available = await self._host.available()
            return Reclaimed(
                wanted.bytes, Bytes(sum(a.assigned - a.planned for a in actions)),
                Bytes(sum(a.applied for a in actions if a.outcome is not Outcome.PLANNED)),
                self._until, available, self._pressure(available), actions,
            )  # fmt: skip

    def _pressure(self, available: Bytes) -> Pressure:
        return Pressure.PRESSURE if self._lent or available < self._policy.below else Pressure.HEALTHY

    async def tick(self) -> None:
        """Follow the host's memory, and let go of a hold that is over."""
        now = self._clock()
        if self._next is not None and now < self._next:
            return
        self._next = now + EVERY
        async with self._turn:
            if self._until is not None and now >= self._until:
                self._held, self._until = 0, None
            if self._known and not (self._policy.below or self._held or self._asked or self._some):
                return
            if self._policy.below:
                lent = next_lent(self._lent, await self._host.available(), await self._most(), self._policy)
                if bool(lent) != bool(self._lent):
                    log.warning("memory is short: guests lend some" if lent else "memory is not short any more")
                self._lent = lent
            await self._apply(max(self._lent, self._held))

    async def allow(self, instance: Instance) -> Bytes:
        """What an instance that runs is left of its memory has changed on record: its guest is asked for that, and
        for what it lends of it. The answer is what it is asked to get along with. :raise Fault: it could not be asked.
        """
        run, usable = (instance.id, instance.observed.incarnation), instance.spec.usable
        async with self._turn:
            self._some = self._some or bool(instance.spec.allowance)
            if wanted := max(self._lent, self._held):
                await self._apply(wanted)
                return self._asked.get(run, usable)
            await self._host.balloon(instance.id, usable)
            if run in self._asked:
                self._asked[run] = usable
        return usable

    async def _most(self) -> int:
        return sum(i.spec.usable - self._policy.keeps(i.spec.usable) for i in await self._running())

    async def _running(self) -> Sequence[Instance]:
        async with self._store.read() as unit:
            found = await unit.instances.all()
        self._some = any(i.spec.allowance for i in found)
        return [i for i in found if face(i) is Face.RUNNING]

    async def _apply(self, wanted: int, *, dry_run: bool = False) -> list[Action]:
        """Ask each running guest that can lend for its share, where it was asked for another one before."""
        running = await self._running()
        runs = [(i.id, i.observed.incarnation) for i in running]
        actions = [await self._seen(instance) for instance in running]
        able = [n for n, action in enumerate(actions) if not action.error]
        aims = targets([actions[n].assigned for n in able], wanted, self._policy)
        for n, aim in zip(able, aims, strict=True):
            planned = replace(actions[n], planned=aim)
            actions[n] = replace(planned, outcome=Outcome.PLANNED) if dry_run else await self._ask(planned)
        if not dry_run:
            kept = {a.id: a.target for a in actions if not a.error}
            quiet = not (wanted or self._policy.below or self._some)
            self._known = not any(a.outcome is Outcome.ERROR for a in actions)  # or it is tried again
            self._asked = {} if quiet else {run: kept[run[0]] for run in runs if run[0] in kept}
        return actions

    async def _seen(self, instance: Instance) -> Action:
        assigned, run = instance.spec.usable, (instance.id, instance.observed.incarnation)
        now, outcome, error = self._asked.get(run), Outcome.UNCHANGED, ""
        if now is None:
            try:
                now = await self._host.guest_memory(instance.id)
            except Fault as fault:
                outcome = Outcome.UNSUPPORTED if isinstance(fault, Unsupported) else Outcome.ERROR
                now, error = assigned, fault.public
        return Action(
            instance.id, instance.name, assigned, self._policy.keeps(assigned), now, assigned, now, outcome, error
        )

    async def _ask(self, action: Action) -> Action:
        if action.planned == action.previous:
            return action
        try:
            await self._host.balloon(action.id, action.planned)
        except Fault as fault:
            log.warning("%s: is not asked for memory: %s", action.id, fault.public)
            return replace(action, outcome=Outcome.ERROR, error=fault.public)
        return replace(action, outcome=Outcome.APPLIED, target=action.planned)
