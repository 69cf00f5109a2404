"""`vm.*`: machines and what is asked of them (seed)."""

from __future__ import annotations

from polyvisor.dialects.hanzo import find, translate, wire
from polyvisor.dialects.hanzo.find import kept_of
from polyvisor.dialects.hanzo.launching import GRACE, check_launch, create_of
from polyvisor.dialects.hanzo.settings import System
from polyvisor.dialects.hanzo.states import (
    DESTROYING,
    ERROR,
    PROVISIONING,
    RESTARTING,
    RUNNING,
    STOPPED,
    STOPPING,
    word,
)
from polyvisor.dialects.hanzo.table import ACT, CREATE, DELETE, QUERY, Call, Router
from polyvisor.dialects.hanzo.volumes import mounted_volumes, release
from polyvisor.engine.instances import Until
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, Invalid, NotFound, Stale, TimedOut, WrongState
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal

routes = Router()
_MOST = 100_000
_MOMENT = 30.0  # seconds for a machine to go


@routes.add("vm.all", QUERY, wire.ThisOrganization)
async def all_vms(call: Call) -> object:
    """The machines of an organization itself, newest first, whoever made them."""
    organization = await find.organization(call, call.body.organizationId, Action.INSTANCE_VIEW)
    page = await call.core.instances.list(call.principal, None, _MOST, project=organization.id)
    found = sorted((one for one in page.items if not one.spare), key=lambda one: -one.number)
    kept = await kept_of(call.core, [one.id for one in found])
    now, mode, region = call.core.clock(), call.core.instances.network.mode, call.settings.regions[0]
    return [translate.listed(one, kept[one.id], now, mode, region) for one in found]


@routes.add("vm.one", QUERY, wire.ThisVm)
async def one_vm(call: Call) -> object:
    """All there is to know of a machine."""
    instance = await find.vm(call, call.body.vmId)
    kept = (await kept_of(call.core, [instance.id]))[instance.id]
    now, mode, region = call.core.clock(), call.core.instances.network.mode, call.settings.regions[0]
    volumes = await mounted_volumes(call.core, instance)
    return translate.detailed(instance, kept, now, mode, region, volumes)


@routes.add("vm.launch", CREATE, wire.Launch, 201)
async def launch(call: Call) -> object:
    """A machine, on its way up. Its image is fetched or built before the answer if this host does not have it yet."""
    body = call.body
    organization = await find.organization(call, body.organizationId, Action.INSTANCE_CREATE)
    system = check_launch(body, call.settings)
    who = call.principal.in_project(organization.id)
    try:
        asked = await call.core.instances.create(who, create_of(body, await _image(call, who, system)))
    except Invalid as fault:
        if fault.field != "cloud_init":
            raise
        field = "sshKeys" if body.sshKeys else "userData"
        raise Invalid(f"{field}: the image of {body.os} has no cloud-init to take it", field=field) from fault
    kept = {"name": body.name}
    told = translate.short(asked.instance, kept, call.core.clock())
    return told | {"ip": None, "plan": body.plan, "region": body.region, "os": body.os}


async def _image(call: Call, who: Principal, system: System) -> str:
    """What a Create names: by its digest, where an organization has an image of its own of that name."""
    if system.source is None:
        return system.image
    name = f"os/{call.body.os}"
    image = await call.core.images.provide(who, name, system.source)
    return name if (await call.core.images.get(who, name)).id == image.id else image.id


@routes.add("vm.start", ACT, wire.ThisVm)
async def start(call: Call) -> object:
    """From stopped, or from an error that left it its disk."""
    instance = await find.vm(call, call.body.vmId, Action.INSTANCE_OPERATE)
    status = word(instance, call.core.clock())
    if status == RUNNING:
        return _status(instance, RUNNING)
    if status not in (STOPPED, ERROR):
        raise WrongState(f"VM is {status}: it must be stopped to be started")
    if face(instance) is Face.PAUSED:
        await call.core.power.resume(call.principal, instance.id)
    else:
        await call.core.power.start(call.principal, instance.id)
    return _status(instance, PROVISIONING if instance.observed.incarnation == 0 else RESTARTING)


@routes.add("vm.stop", ACT, wire.ThisVm)
async def stop(call: Call) -> object:
    """Gracefully, and by force when the guest does not obey in its time."""
    instance = await find.vm(call, call.body.vmId, Action.INSTANCE_OPERATE)
    status = word(instance, call.core.clock())
    if status in (STOPPED, STOPPING):
        return _status(instance, status)
    if status not in (RUNNING, ERROR):
        raise WrongState(f"VM is {status}: it must be running to be stopped")
    await call.core.power.stop(call.principal, instance.id, grace=GRACE)
    return _status(instance, STOPPING)


@routes.add("vm.restart", ACT, wire.ThisVm)
async def restart(call: Call) -> object:
    """A graceful stop and a start."""
    instance = await find.vm(call, call.body.vmId, Action.INSTANCE_OPERATE)
    status = word(instance, call.core.clock())
    if status != RUNNING:
        raise WrongState(f"VM is {status}: it must be running to be restarted")
    await call.core.power.restart(call.principal, instance.id, grace=GRACE)
    return _status(instance, RESTARTING)


@routes.add("vm.destroy", DELETE, wire.ThisVm, 204)
async def destroy(call: Call) -> None:
    """The machine and its disk, whatever its status is. Volumes are unmounted, if it lets go of them, and stay."""
    instance = await find.vm(call, call.body.vmId, Action.INSTANCE_DELETE)
    if word(instance, call.core.clock()) == DESTROYING:
        raise NotFound("VM not found", field="vmId")
    if face(instance) is Face.RUNNING and instance.observed.ready:
        await release(call, instance)
    asked = await call.core.power.delete(call.principal, instance.id, force=True)
    try:
        await call.core.instances.settle(asked, Until.LAUNCHED, _MOMENT)
    except (TimedOut, Stale, Busy):
        return  # it goes all the same


def _status(instance: Instance, status: str) -> dict[str, object]:
    return {"id": find.VM + instance.id, "status": status}
