"""`/v`: virtual machines and what is asked of them (velocity.md §1.2)."""

from __future__ import annotations

from polyvisor.dialects.velocity import wire
from polyvisor.dialects.velocity.errors import Refusal
from polyvisor.dialects.velocity.media import names_of
from polyvisor.dialects.velocity.states import WORDS, Ask, ask_of
from polyvisor.dialects.velocity.table import Call, Routes
from polyvisor.engine.instances import Until
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, Fault, Forbidden, NotFound, Stale, WrongState
from polyvisor.model.instance import Instance
from polyvisor.model.principal import SYSTEM, Action
from polyvisor.model.units import MIB

routes = Routes()
_MOST = 100_000
_MOMENT = 30.0  # seconds


@routes.add("POST /v/vm/list", wire.ThisGroup, {NotFound: 17210, Forbidden: 17200})
async def list_vms(call: Call) -> object:
    """The machines of a group itself."""
    group = await call.core.numbers.project(call.body.gid)
    page = await call.core.instances.list(call.principal, None, _MOST, project=group.id)
    found = sorted(page.items, key=lambda one: one.number)
    names = await names_of(call.core, found)
    return {
        "vms": [
            {
                "vmid": one.number, "name": names[one.id], "cpus": one.spec.vcpus, "memory_mib": one.spec.memory // MIB,
                "state": WORDS[face(one)],
            }
            for one in found
        ]
    }  # fmt: skip


@routes.add("POST /v/vm/state", wire.ThisMachine, {NotFound: 13110, Forbidden: 13100})
async def get_state(call: Call) -> object:
    """The state of a machine."""
    return _state(await call.core.numbers.instance(call.principal, call.body.vmid, Action.INSTANCE_VIEW))


def _state(instance: Instance) -> dict[str, object]:
    return {"vmid": instance.number, "state": WORDS[face(instance)]}


@routes.add("PUT /v/vm/state", wire.ChangeState, {NotFound: 13210, Forbidden: 13200})
async def change_state(call: Call) -> object:
    """Ask for a state; the answer has the one right after that, which is seldom the one that was asked for."""
    instance = await call.core.numbers.instance(call.principal, call.body.vmid, Action.INSTANCE_OPERATE)
    instance = await _made(call, instance)
    ask = ask_of(WORDS[face(instance)], call.body.state, force=call.body.force)
    try:
        return _state(await _do(call, instance, ask))
    except (WrongState, Busy, Stale) as fault:
        raise Refusal(13220) from fault
    except (NotFound, Forbidden):
        raise
    except Fault as fault:
        raise Refusal(13221, fault.public) from fault


async def _do(call: Call, instance: Instance, ask: Ask) -> Instance:
    power, who, id = call.core.power, call.principal, instance.id
    if ask is Ask.REFUSE:
        raise Refusal(13220)
    if ask is Ask.FAIL:
        raise Refusal(13221, "a paused machine does not hear the power button")
    if ask is Ask.START:
        return (await power.start(who, id)).instance
    if ask is Ask.RESUME:
        return (await power.resume(who, id)).instance
    if ask is Ask.PAUSE:
        return (await power.pause(who, id)).instance
    if ask is Ask.PRESS:
        await power.press(who, id)
    if ask is Ask.KILL:
        return (await power.stop(who, id, force=True)).instance
    return await call.core.numbers.instance(who, instance.number, Action.INSTANCE_OPERATE)


@routes.add("POST /v/nic/list", None)
async def list_nics(call: Call) -> object:
    """The NICs of the host that the administrator lends to machines."""
    if not call.principal.may_somewhere(Action.NIC_VIEW):
        raise Refusal(11100)
    found = await call.core.nics.list(call.principal)
    return {"host_nics": [{"nicid": n.number, "description": n.description, "identifier": n.name} for n in found]}


@routes.add("DELETE /v/vm", wire.ThisMachine, {NotFound: 16310, Forbidden: 16300, WrongState: 16320, Busy: 16320})
async def remove_vm(call: Call) -> object:
    """A machine that is stopped. Its media stay."""
    instance = await call.core.numbers.instance(call.principal, call.body.vmid, Action.INSTANCE_DELETE)
    instance = await _made(call, instance)
    if WORDS[face(instance)] not in ("STOPPED", "ERROR"):
        raise Refusal(16320)
    asked = await call.core.power.delete(call.principal, instance.id, force=False)
    await call.core.instances.settle(asked, Until.LAUNCHED, _MOMENT)  # its name and its media are free by then
    return None


async def _made(call: Call, instance: Instance) -> Instance:
    """One that is being made is called stopped, and so it can be started or removed: in a moment."""
    if face(instance) is not Face.CREATING:
        return instance
    made = await call.core.instances.wait(SYSTEM, instance.id, _is_made, _MOMENT)
    return made or instance


def _is_made(instance: Instance) -> bool:
    return face(instance) is not Face.CREATING and instance.operation is None
