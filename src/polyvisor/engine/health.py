"""Health: workloads are asked how they are, and the restart policy hears of those that are not well.

What was found out is a fact of the present server and of no record: another one begins anew, and knows soon. Only that
a run was condemned is a wish, and written down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.face import Face, face
from polyvisor.model.faults import NotFound
from polyvisor.model.health import NO_CHECK, NOT_RUNNING, Health, HealthCheck, HealthStatus, Probe, after
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.spec import RestartMode
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
_OUT_OF_REACH = "in user mode the port is reached from the instance's next start on"


@dataclass(slots=True)
class _Watch:
    """One run of an instance, under one check."""

    run: int
    check: HealthCheck
    due: datetime
    status: HealthStatus = HealthStatus()
    probing: asyncio.Task[None] | None = None


class HealthEngine:
    """A chore of the keeper, and what is known by now."""

    def __init__(self, store: Store, host: Host, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self._watches: dict[InstanceId, _Watch] = {}

    def status(self, instance: Instance) -> HealthStatus:
        """How the workload is."""
        check = instance.spec.health
        if check is None:
            return NO_CHECK
        if face(instance) is not Face.RUNNING:
            return NOT_RUNNING
        watch = self._watches.get(instance.id)
        fits = watch is not None and (watch.run, watch.check) == (instance.observed.incarnation, check)
        return watch.status if watch is not None and fits else HealthStatus()

    async def tick(self) -> None:
        """Begin the checks that are due; none is waited for."""
        now = self._clock()
        async with self._store.read() as unit:
            checked = await unit.instances.having("health")
        running = {i.id: i for i in checked if i.spec.health is not None and _may_be_asked(i)}
        for id in self._watches.keys() - running.keys():
            self._forget(id)
        for id, instance in running.items():
            self._look(id, instance, now)

    def _look(self, id: InstanceId, instance: Instance, now: datetime) -> None:
        check, run = instance.spec.health, instance.observed.incarnation
        assert check is not None
        watch = self._watches.get(id)
        if watch is None or (watch.run, watch.check) != (run, check):
            self._forget(id)
            watch = self._watches[id] = _Watch(run, check, now)
        busy = watch.probing is not None and not watch.probing.done()
        if not busy and now >= watch.due:
            watch.probing = asyncio.create_task(self._probe(instance, watch), name=f"health of {id}")

    def _forget(self, id: InstanceId) -> None:
        watch = self._watches.pop(id, None)
        if watch is not None and watch.probing is not None:
            watch.probing.cancel()

    async def _probe(self, instance: Instance, watch: _Watch) -> None:
        try:
            error = await self._host.probe(blueprint_of(instance), watch.check)
        except Exception as failure:
            log.exception("%s: the health check stumbled", instance.id)
            error = repr(failure)
        now = self._clock()
        watch.due = now + timedelta(seconds=watch.check.interval)
        if error is None:
            watch.status = replace(watch.status, health=Health.UNKNOWN, checked=now, error=_OUT_OF_REACH)
        else:
            await self._judge(instance.id, watch, error, now)

    async def _judge(self, id: InstanceId, watch: _Watch, error: str, now: datetime) -> None:
        """What was asked of a machine that has been stopped, or is another by now, says nothing."""
        async with self._store.write() as unit:
            try:
                instance = await unit.instances.get(id)
            except NotFound:
                return
            known = (instance.observed.incarnation, instance.spec.health) == (watch.run, watch.check)
            if not known or not _may_be_asked(instance):
                return
            was, watch.status = watch.status, after(watch.status, watch.check, error, instance.observed.booted, now)
            if watch.status.health is not was.health:
                log.info("%s is %s%s", id, watch.status.health, f": {error}" if error else "")
            if watch.status.health is Health.UNHEALTHY and _to_be_restarted(instance):
                await unit.instances.want(id, replace(instance.intent, condemned=watch.run))

    async def close(self) -> None:
        """No check is under way."""
        left = [w.probing for w in self._watches.values() if w.probing is not None]
        for id in list(self._watches):
            self._forget(id)
        await asyncio.gather(*left, return_exceptions=True)


def _may_be_asked(instance: Instance) -> bool:
    """Whether it runs, nobody has another wish, and there is somebody to run a command."""
    check = instance.spec.health
    idle = face(instance) is Face.RUNNING and instance.settled and instance.operation is None
    return idle and (instance.observed.ready or (check is not None and check.probe is not Probe.EXEC))


def _to_be_restarted(instance: Instance) -> bool:
    """Whether the policy would start it again; one that it would not runs on, for whoever looks into it."""
    policy, seen = instance.spec.restart, instance.observed
    spent = bool(policy.attempts) and seen.restarts >= policy.attempts
    return policy.mode is not RestartMode.NEVER and not spent and instance.intent.condemned != seen.incarnation
