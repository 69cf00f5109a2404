"""`volume.*`, and `vm.*` about volumes (seed; hanzo.md §1.3)."""

from __future__ import annotations

from polyvisor.dialects.hanzo import find, translate, volumes, wire
from polyvisor.dialects.hanzo.catalog import TIERS
from polyvisor.dialects.hanzo.find import ORGANIZATION, kept_of, named
from polyvisor.dialects.hanzo.launching import check_name, check_region, one_of
from polyvisor.dialects.hanzo.table import ACT, CREATE, DELETE, QUERY, Call, Router
from polyvisor.model.faults import Busy, Invalid, NotFound
from polyvisor.model.instance import Instance
from polyvisor.model.principal import SYSTEM, Action
from polyvisor.model.units import GIB, Bytes
from polyvisor.model.volume import Volume, VolumeState

routes = Router()
_MOST = 100_000


async def _told(call: Call, volume: Volume) -> dict[str, object]:
    """A volume with its place, as it is now."""
    volume = await call.core.volumes.get(SYSTEM, volume.id)
    kept = (await kept_of(call.core, [volume.id]))[volume.id]
    holder = await _holder(call, volume)
    mount = None if holder is None else volumes.mount_of(holder, volume)
    return translate.volume(volume, kept, call.settings.regions[0], mount)


async def _holder(call: Call, volume: Volume) -> Instance | None:
    try:
        return await call.core.instances.get(SYSTEM, volume.attached[0]) if volume.attached else None
    except NotFound:
        return None


@routes.add("vm.volumes", QUERY, wire.ThisVm)
async def vm_volumes(call: Call) -> object:
    """The volumes of a machine."""
    return await volumes.mounted_volumes(call.core, await find.vm(call, call.body.vmId))


@routes.add("vm.attachVolume", ACT, wire.Attach)
async def attach(call: Call) -> object:
    """A volume of the machine's organization and region; mounted if a path is given and the agent is there."""
    instance = await find.vm(call, call.body.vmId, Action.INSTANCE_ALTER)
    volume = await find.volume(call, call.body.volumeId, Action.VOLUME_USE)
    path = volumes.check_path(call.body.mountPath)
    if volume.project != instance.project:
        raise NotFound("Volume not found", field="volumeId")
    if volume.attached and instance.id not in volume.attached:
        raise Busy("volumeId: the volume is attached to another VM", field="volumeId")
    kept = await kept_of(call.core, [instance.id, volume.id])
    here = call.settings.regions[0]
    if (kept[instance.id].get("region") or here) != (kept[volume.id].get("region") or here):
        raise Invalid("volumeId: the volume is in another region than the VM", field="volumeId")
    mounted = await volumes.attach(call, instance, volume, path)
    return await _told(call, volume) | {"mounted": mounted}


@routes.add("vm.detachVolume", ACT, wire.Detach)
async def detach(call: Call) -> object:
    """Synced and unmounted by the agent, if it had mounted it, and unplugged."""
    instance = await find.vm(call, call.body.vmId, Action.INSTANCE_ALTER)
    volume = await find.volume(call, call.body.volumeId, Action.VOLUME_USE)
    await volumes.detach(call, instance, volume)
    return await _told(call, volume)


@routes.add("volume.all", QUERY, wire.ThisOrganization)
async def all_volumes(call: Call) -> object:
    """The volumes of an organization itself, newest first."""
    organization = await find.organization(call, call.body.organizationId, Action.VOLUME_VIEW)
    page = await call.core.volumes.list(call.principal, None, _MOST, organization.id)
    found = [one for one in reversed(page.items) if one.state is not VolumeState.DELETING]
    return [await _told(call, one) for one in found]


@routes.add("volume.one", QUERY, wire.ThisVolume)
async def one_volume(call: Call) -> object:
    """A volume."""
    return await _told(call, await find.volume(call, call.body.volumeId))


@routes.add("vm.createVolume", CREATE, wire.NewVolume, 201)
@routes.add("volume.create", CREATE, wire.NewVolume, 201)
async def create(call: Call) -> object:
    """A volume with an empty ext4 file system."""
    body = call.body
    organization = await find.organization(call, await _organization(call), Action.VOLUME_CREATE)
    check_name(body.name)
    least, most = TIERS[one_of(body.tier, TIERS, "tier")]
    _check_size(body.sizeGb, least, most)
    region = check_region(body.region, call.settings)
    name, foreign = named(body.name, "volume", tier=body.tier, region=region)
    who = call.principal.in_project(organization.id)
    made = await call.core.volumes.create(who, name, Bytes(body.sizeGb * GIB), foreign=foreign)
    return await _told(call, made)


async def _organization(call: Call) -> str:
    """The one that is named, or else the only one there is for the caller. :raise Invalid: it must be named."""
    if call.body.organizationId is not None:
        return str(call.body.organizationId)
    found = await call.core.projects.list(call.principal)
    if len(found) != 1:
        raise Invalid("organizationId: is required, this token is for more than one", field="organizationId")
    return ORGANIZATION + found[0].id


def _check_size(size: int, least: int, most: int) -> None:
    if not least <= size <= most:
        raise Invalid(f"sizeGb: must be {least} to {most} in this tier", field="sizeGb")


@routes.add("volume.resize", ACT, wire.ResizeVolume)
async def resize(call: Call) -> object:
    """Larger, while it is used, too."""
    volume = await find.volume(call, call.body.volumeId, Action.VOLUME_ALTER)
    kept = (await kept_of(call.core, [volume.id]))[volume.id]
    _, most = TIERS[kept.get("tier", "ssd")]
    if call.body.sizeGb * GIB < volume.size:
        raise Invalid("sizeGb: a volume can only grow", field="sizeGb")
    _check_size(call.body.sizeGb, 1, most)
    return await _told(call, await call.core.volumes.resize(call.principal, volume.id, Bytes(call.body.sizeGb * GIB)))


@routes.add("vm.deleteVolume", DELETE, wire.ThisVolume, 204)
@routes.add("volume.remove", DELETE, wire.ThisVolume, 204)
async def remove(call: Call) -> None:
    """A volume that no machine has."""
    volume = await find.volume(call, call.body.volumeId, Action.VOLUME_DELETE)
    await call.core.volumes.delete(call.principal, volume.id)
