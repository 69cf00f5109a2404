"""Power: every verb is admitted by the same table, written as an intent with an operation, and met later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from polyvisor.access.grants import scope
from polyvisor.engine.instances import Asked, InstancesEngine
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, Invalid, WrongState
from polyvisor.model.instance import Instance, Intent, Power
from polyvisor.model.operation import Answer, Verb, admit
from polyvisor.model.principal import Action, Principal
from polyvisor.model.units import Seconds
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")

_POWER = {
    Verb.START: Power.ON,
    Verb.RESTART: Power.ON,
    Verb.RESUME: Power.ON,
    Verb.PAUSE: Power.PAUSED,
    Verb.STOP: Power.OFF,
}


class PowerEngine:
    """Start, stop, restart, reset, pause, resume, delete."""

    def __init__(self, store: Store, clock: Callable[[], datetime], instances: InstancesEngine) -> None:
        self._store = store
        self._clock = clock
        self._instances = instances

    async def start(self, principal: Principal, key: str) -> Asked:
        """Power on. :raise WrongState, Busy:"""
        return await self._ask(principal, key, Verb.START)

    async def stop(self, principal: Principal, key: str, *, force: bool = False, grace: Seconds | None = None) -> Asked:
        """Power off: ask the guest, and after `grace` seconds (the spec's by default) do not ask. `force`: at once."""
        if grace is not None and not 0 <= grace <= 3600:
            raise Invalid("grace: must be between 0 and 3600 seconds", field="grace")
        return await self._ask(principal, key, Verb.STOP, force=force, grace=grace)

    async def restart(self, principal: Principal, key: str, *, force: bool = False) -> Asked:
        """Stop as `stop` does, then start: a new process, the same disks and addresses."""
        return await self._ask(principal, key, Verb.RESTART, force=force)

    async def reset(self, principal: Principal, key: str) -> Asked:
        """The reset button."""
        return await self._ask(principal, key, Verb.RESET)

    async def pause(self, principal: Principal, key: str) -> Asked:
        """Stop the vCPUs; memory stays."""
        return await self._ask(principal, key, Verb.PAUSE)

    async def resume(self, principal: Principal, key: str) -> Asked:
        """Let the vCPUs go on."""
        return await self._ask(principal, key, Verb.RESUME)

    async def delete(self, principal: Principal, key: str, *, force: bool = True) -> Asked:
        """The instance and its disk go, attached volumes stay. Without `force` a running one is refused."""
        return await self._ask(principal, key, Verb.DELETE, force=force)

    async def _ask(
        self, principal: Principal, key: str, verb: Verb, *, force: bool = False, grace: Seconds | None = None
    ) -> Asked:
        action = Action.DELETE if verb is Verb.DELETE else Action.OPERATE
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, action)
            if verb is Verb.DELETE and instance.intent.deleted:
                return Asked(instance, instance.operation)
            if verb is Verb.DELETE and not force:
                _admit_delete(instance)
            under_way = await unit.operations.current(instance.id)
            verdict = admit(verb, face(instance), under_way.verb if under_way else None)
            if verdict is Answer.NOTHING_TO_DO and (under_way is not None or _wished(instance, verb)):
                return Asked(instance, instance.operation)
            asked_already = under_way is not None and under_way.verb is verb is Verb.STOP
            if asked_already and not force and grace is None:  # asking again must not put the limit off
                return Asked(instance, instance.operation)
            instance = replace(instance, intent=_intent(instance, verb, force, grace))
            if verb is not Verb.RESET:
                await unit.instances.want(instance.id, instance.intent)
            operation = await self._instances.open(unit, instance, verb)
            if verb is Verb.RESET:
                unit.wake(instance.id)
        return Asked(instance, operation.id)

    async def autostart(self, principal: Principal) -> list[Asked]:
        """Start every instance that is to start with the server, is not running, and was not stopped by its owner.

        Called once, at the server's start, when the records say what is. One that cannot start is left as it is.
        """
        asked = []
        assert scope(principal) is None
        async with self._store.read() as unit:
            instances = await unit.instances.all()
        for instance in instances:
            if _to_autostart(instance):
                try:
                    asked.append(await self.start(principal, instance.id))
                except Fault as fault:
                    log.warning("%s: cannot be started with the server: %s", instance.id, fault.public)
        return asked


def _wished(instance: Instance, verb: Verb) -> bool:
    """Whether the wish is on record already: what has only happened to be so may change by itself, a wish not."""
    return instance.intent.power is _POWER[verb] and (verb is not Verb.STOP or instance.observed.restart_at is None)


def _to_autostart(instance: Instance) -> bool:
    wanted = instance.spec.autostart and instance.intent.power is not Power.OFF and not instance.intent.deleted
    return wanted and instance.operation is None and face(instance) in (Face.STOPPED, Face.FAILED)


def _admit_delete(instance: Instance) -> None:
    """:raise WrongState: it runs, and the caller did not say force."""
    if face(instance) not in (Face.STOPPED, Face.FAILED):
        raise WrongState(f"the instance is {face(instance)}: stop it first, or force the delete")


def _intent(instance: Instance, verb: Verb, force: bool, grace: Seconds | None) -> Intent:
    was = instance.intent
    if verb is Verb.RESET:
        return was
    return replace(
        was,
        power=_POWER.get(verb, was.power),
        deleted=was.deleted or verb is Verb.DELETE,
        generation=was.generation + 1,
        force=force,
        grace=instance.spec.grace if grace is None else grace,
    )
