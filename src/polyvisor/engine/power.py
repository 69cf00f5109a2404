"""Power: every verb is admitted by the same table, written as an intent with an operation, and met later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from polyvisor.access.grants import require_operator
from polyvisor.engine.instances import Asked, InstancesEngine
from polyvisor.engine.packing import standby_packing
from polyvisor.engine.reshape import apply_later
from polyvisor.engine.resolve import with_command
from polyvisor.model.compression import Compression, Packing
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, Invalid, NotFound, WrongState
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance, Intent, Power
from polyvisor.model.operation import Answer, Verb, admit
from polyvisor.model.principal import SYSTEM, Action, Principal
from polyvisor.model.spec import Spec
from polyvisor.model.units import Seconds
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit
from polyvisor.scheduler.place import place

log = logging.getLogger("polyvisor.engine")

_POWER = {
    Verb.START: Power.ON,
    Verb.RESTART: Power.ON,
    Verb.RESUME: Power.ON,
    Verb.PAUSE: Power.PAUSED,
    Verb.SUSPEND: Power.SUSPENDED,
    Verb.STOP: Power.OFF,
}
_OFF = frozenset({Face.STOPPED, Face.FAILED})
_OF_A_PROCESS = frozenset({Verb.PAUSE, Verb.RESUME, Verb.SUSPEND, Verb.RESET})  # the host's end is that one's, too


class PowerEngine:
    """Start, stop, restart, reset, pause, resume, suspend, delete."""

    def __init__(
        self, store: Store, host: Host, clock: Callable[[], datetime], instances: InstancesEngine, packing: Packing
    ) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self._instances = instances
        self._packing = packing  # where neither the caller nor the instance has a word of its own

    async def start(
        self, principal: Principal, key: str, *, entrypoint: tuple[str, ...] | None = None,
        command: tuple[str, ...] | None = None,
    ) -> Asked:  # fmt: skip
        """Power on; with another entry point or command, which it keeps.

        :raise WrongState, Busy: also when it is to have another command and does not boot anew. :raise Invalid:
        :raise NoCapacity: the host is smaller than the machine.
        """
        instance = await self._instances.get(principal, key, Action.INSTANCE_OPERATE)
        if face(instance) in _OFF:
            place(instance.spec.then, [await self._host.report()], {})
        if entrypoint is None and command is None:
            return await self._ask(principal, key, Verb.START)
        await self._instances.get(principal, key, Action.INSTANCE_ALTER)
        return await self._ask(principal, key, Verb.START, spec=lambda was: with_command(was, entrypoint, command))

    async def stop(self, principal: Principal, key: str, *, force: bool = False, grace: Seconds | None = None) -> Asked:
        """Power off: ask the guest, and after `grace` seconds (the spec's by default) do not ask. `force`: at once."""
        if grace is not None and not 0 <= grace <= 3600:
            raise Invalid("grace: must be between 0 and 3600 seconds", field="grace")
        return await self._ask(principal, key, Verb.STOP, force=force, grace=grace)

    async def press(self, principal: Principal, key: str) -> Instance:
        """The power button: the guest is asked to shut down, and nothing is done about one that does not obey.

        :raise WrongState: it does not run.
        """
        instance = await self._instances.get(principal, key, Action.INSTANCE_OPERATE)
        if face(instance) is not Face.RUNNING:
            raise WrongState(f"the instance is {face(instance)} and hears no button")
        await self._host.press(instance.id)
        return instance

    async def restart(
        self, principal: Principal, key: str, *, force: bool = False, grace: Seconds | None = None
    ) -> Asked:
        """Stop as `stop` does, then start: a new process, the same disks and addresses."""
        return await self._ask(principal, key, Verb.RESTART, force=force, grace=grace)

    async def reset(self, principal: Principal, key: str) -> Asked:
        """The reset button."""
        return await self._ask(principal, key, Verb.RESET)

    async def pause(self, principal: Principal, key: str) -> Asked:
        """Stop the vCPUs; memory stays."""
        return await self._ask(principal, key, Verb.PAUSE)

    async def resume(self, principal: Principal, key: str) -> Asked:
        """Let it go on: where it was paused, or where it was suspended."""
        return await self._ask(principal, key, Verb.RESUME)

    async def suspend(
        self, principal: Principal, key: str, *, compression: Compression | None = None, delay: Seconds | None = None
    ) -> Asked:
        """Save its memory and end its process; `resume` or `start` lets it go on, `stop` gives its memory up.

        `compression` and `delay` are this standby's, instead of the instance's or the server's.
        :raise WrongState, Busy: :raise Unsupported: volumes or the host do not allow it.
        """
        return await self._ask(principal, key, Verb.SUSPEND, compression=compression, delay=delay)

    async def delete(self, principal: Principal, key: str, *, force: bool = True) -> Asked:
        """The instance and its disk go, attached volumes stay. Without `force` a running one is refused."""
        return await self._ask(principal, key, Verb.DELETE, force=force)

    async def delete_spare(self, id: InstanceId) -> Asked | None:
        """Of the pool, if it still is: one that a create has taken over since is somebody's. None: it is."""
        try:
            return await self._ask(SYSTEM, id, Verb.DELETE, force=True, spare=True)
        except NotFound:
            return None

    async def _ask(  # noqa: PLR0913 - what any of the verbs may say
        self, principal: Principal, key: str, verb: Verb, *, force: bool = False, grace: Seconds | None = None,
        compression: Compression | None = None, delay: Seconds | None = None,
        spec: Callable[[Spec], Spec] | None = None, spare: bool = False,
    ) -> Asked:  # fmt: skip
        action = Action.INSTANCE_DELETE if verb is Verb.DELETE else Action.INSTANCE_OPERATE
        async with self._store.write(lasting=verb not in _OF_A_PROCESS) as unit:
            instance = await self._instances.find(unit, principal, key, action)
            if verb is Verb.DELETE and instance.intent.deleted:
                return Asked(instance, instance.operation)
            if verb is Verb.DELETE:
                _admit_delete(instance, force=force, spare=spare)
            under_way = await unit.operations.current(instance.id)
            verdict = admit(verb, face(instance), under_way.verb if under_way else None)
            instance = await self._changed(unit, instance, verb, spec)
            packing = standby_packing(compression, delay, instance.spec, self._packing)
            if verdict is Answer.NOTHING_TO_DO and verb is Verb.SUSPEND and packing != instance.intent.packing:
                _refuse_later(compression, delay)
            if verdict is Answer.NOTHING_TO_DO and (under_way is not None or _wished(instance, verb)):
                return Asked(instance, instance.operation)
            asked_already = under_way is not None and under_way.verb is verb is Verb.STOP
            if asked_already and not force and grace is None:  # asking again must not put the limit off
                return Asked(instance, instance.operation)
            intent = _intent(instance, verb, force, grace)
            if verb is Verb.SUSPEND:
                intent = replace(intent, packing=packing)
            instance = replace(instance, intent=intent)
            if verb is not Verb.RESET:
                await unit.instances.want(instance.id, instance.intent)
            operation = await self._instances.open(unit, instance, verb)
            if verb is Verb.RESET:
                unit.wake(instance.id)
        return Asked(instance, operation.id)

    async def _changed(
        self, unit: Unit, instance: Instance, verb: Verb, spec: Callable[[Spec], Spec] | None
    ) -> Instance:
        """The instance with what only a boot can give it: what is asked now, and what was asked while it ran."""
        if spec is not None:
            if face(instance) not in _OFF:
                raise WrongState(f"command: the instance is {face(instance)} and keeps what it was booted with")
            instance = replace(instance, spec=spec(instance.spec))
            await unit.instances.rename(instance.id, instance.name, instance.spec)
        if verb is Verb.START and instance.spec.later is not None and face(instance) in _OFF:
            return await apply_later(unit, self._instances.network, instance)
        return instance

    async def autostart(self, principal: Principal) -> list[Asked]:
        """Start every instance that is to start with the server, is not running, and was not stopped by its owner. One
        that was made to be off, and has not been told anything since, was not.

        Called once, at the server's start, when the records say what is. One that cannot start is left as it is.
        """
        asked = []
        require_operator(principal)
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


def _refuse_later(compression: Compression | None, delay: Seconds | None) -> None:
    """:raise WrongState: its memory was saved already, to be compressed in another way."""
    for field, said in {"compression": compression, "compression_delay": delay}.items():
        if said is not None:
            raise WrongState(f"{field}: the instance is in standby already", field=field)


def _to_autostart(instance: Instance) -> bool:
    stopped = instance.intent.power is Power.OFF and instance.intent.generation > 1
    wanted = instance.spec.autostart and not stopped and not instance.intent.deleted
    return wanted and instance.operation is None and face(instance) in _OFF


def _admit_delete(instance: Instance, *, force: bool, spare: bool) -> None:
    """:raise WrongState: it runs, and the caller did not say force. :raise NotFound: it is no `spare` any more."""
    if spare and not instance.spare:
        raise NotFound(f"{instance.id} is no spare any more", subject=instance.id)
    if not force and face(instance) not in _OFF:
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
        packing=Packing(),
        condemned=0,
    )
