"""`/v/vm` and `/v/vm/efi`: a machine in full, and one that boots what is attached to it (velocity.md §1.2, §3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyvisor.dialects.velocity import wire
from polyvisor.dialects.velocity.errors import Refusal
from polyvisor.dialects.velocity.media import mid_of, name_of, named, names_of, remainders_of
from polyvisor.dialects.velocity.routes_media import group_of, medium
from polyvisor.dialects.velocity.states import WORDS
from polyvisor.dialects.velocity.table import Call, Codes, Routes
from polyvisor.model.face import face
from polyvisor.model.faults import Busy, Exists, Forbidden, Invalid, NoCapacity, NotFound, OverQuota
from polyvisor.model.identity import Project
from polyvisor.model.instance import Bus, Instance, Mount, Power
from polyvisor.model.principal import SYSTEM, Action
from polyvisor.model.request import Create
from polyvisor.model.spec import Display, Firmware
from polyvisor.model.units import MIB, Bytes

routes = Routes()
_BUSES: Mapping[str, Bus] = {"USB": Bus.USB, "BLOCK": Bus.VIRTIO, "VIRTIO": Bus.VIRTIO}
_QUOTAS = {"vcpus": 12220, "memory": 12221}
_MACHINE: Codes = {Exists: 12223, Forbidden: 12200, NotFound: 12211, Busy: 12228}


# -- a new one -----------------------------------------------------------------------------------------------------


@routes.add("PUT /v/vm/efi", wire.NewMachine, _MACHINE)
async def create_machine(call: Call) -> object:
    """A machine with UEFI that is off. What is wrong is told in the order of velocity.md §3.5."""
    body = call.body
    group = await group_of(call, body.gid, 12210)
    if not call.principal.may(Action.INSTANCE_CREATE, group.id):
        raise Refusal(12200)
    await _new_name(call, group, body.name)
    bridged = _bridged(call, body.nics)
    mounts = [await _mount(call, group, one) for one in body.media]
    if len({one.name for one in body.displays}) != len(body.displays):
        raise Refusal(12224)
    kept = {
        "displays": [one.model_dump() for one in body.displays],
        "nics": [{"type": "NAT"} if one.type == "NAT" else {"type": one.type, "host": one.host} for one in body.nics],
        "modes": {one.mid.upper(): one.mode for one in body.media},
        "rosetta": body.rosetta,
    }
    name, foreign = named(body.name, "vm", **kept)
    wanted = Create(
        blank=True, firmware=Firmware.UEFI, name=name, vcpus=body.cpus, memory=Bytes(body.memory_mib * MIB),
        displays=tuple(Display(d.name, d.width, d.height, d.ppi) for d in body.displays),
        network=any(one.type == "NAT" for one in body.nics), bridged=bridged,
        mounts=await call.core.volumes.resolve(call.principal.in_project(group.id), mounts), power=Power.OFF,
        autostart=body.autostart, foreign=foreign,
    )  # fmt: skip
    try:
        asked = await call.core.instances.create(call.principal.in_project(group.id), wanted)
    except (Invalid, OverQuota, NoCapacity) as fault:
        if isinstance(fault, Invalid) and fault.field not in _QUOTAS:
            raise
        raise Refusal(_QUOTAS.get(fault.field or "", 12222), fault.public) from fault
    return {"vmid": asked.instance.number}


async def _new_name(call: Call, group: Project, name: str) -> None:
    """:raise Refusal: a machine of the group is called that; two who ask at once are told apart by the engine."""
    page = await call.core.instances.list(SYSTEM, None, 100_000, project=group.id)  # a name may be taken by one unseen
    if name in (await names_of(call.core, page.items)).values():
        raise Refusal(12223)


def _bridged(call: Call, nics: list[wire.Nic]) -> tuple[str, ...]:
    """The host NICs that are meant, by our names. :raise Refusal:"""
    found = []
    for number, nic in enumerate(nics):
        if nic.type not in ("NAT", "BRIDGE"):
            raise Refusal(12226, f"nics[{number}].type: {nic.type[:40]}")
        if nic.type == "BRIDGE" and nic.host is None:
            raise Refusal(12227, f"nics[{number}].host")
        if nic.host is not None and nic.type == "BRIDGE":
            try:
                found.append(call.core.nics.numbered(nic.host))
            except NotFound as fault:
                raise Refusal(12214, f"nics[{number}].host: {nic.host}") from fault
    if len(nics) - len(found) > 1:
        raise Refusal(12226, "nics: a machine has one NAT at most")
    return tuple(found)


async def _mount(call: Call, group: Project, one: wire.Medium) -> Mount:
    """How a medium is attached: read-only, too, where it or the group's rights in its pool say so."""
    if one.mode not in _BUSES:
        raise Refusal(12225, f"media.mode: {one.mode[:40]}")
    volume = await medium(call, one.mid, 12211)
    if not call.principal.may(Action.VOLUME_USE, volume.project):
        raise Refusal(12211, f"media.mid: {one.mid[:40]}")
    numbers = call.core.pools.numbers()
    if volume.pool not in numbers:
        raise Refusal(12213)
    writes = {a.pool.number for a in await call.core.rights.of(group) if a.rights.writes}
    read_only = one.readonly or volume.read_only or numbers[volume.pool] not in writes
    return Mount(volume.id, volume.name, "", read_only, bus=_BUSES[one.mode])


# -- one in full ---------------------------------------------------------------------------------------------------


@routes.add("POST /v/vm", wire.ThisMachine, {NotFound: 16210, Forbidden: 16210})
async def get_machine(call: Call) -> object:
    """All there is to know of a machine; who may not see it is told that it is not there."""
    instance = await call.core.numbers.instance(call.principal, call.body.vmid, Action.INSTANCE_VIEW)
    kept: dict[str, Any] = dict((await remainders_of(call.core, [instance.id])).get(instance.id, {}))
    volumes = {one.id: one for one in await call.core.numbers.volumes()}
    modes = kept.get("modes", {})
    media = []
    for mount in instance.mounts:
        if mount.volume not in volumes:
            continue  # detached and deleted since
        mid = mid_of(volumes[mount.volume])
        usual = "USB" if mount.bus is Bus.USB else "VIRTIO"
        media.append({"mid": mid, "mode": modes.get(mid, usual), "readonly": mount.read_only})
    return {
        "vmid": instance.number, "name": name_of(instance, kept), "type": "EFI", "state": WORDS[face(instance)],
        "cpus": instance.spec.vcpus, "memory_mib": instance.spec.memory // MIB,
        "displays": kept.get("displays", _displays(instance)), "media": media,
        "nics": kept.get("nics", [{"type": "NAT"}] if instance.spec.network else []),
        "rosetta": kept.get("rosetta", False), "autostart": instance.spec.autostart,
    }  # fmt: skip


def _displays(instance: Instance) -> list[dict[str, object]]:
    return [
        {"name": one.name, "width": one.width, "height": one.height, "ppi": one.ppi} for one in instance.spec.displays
    ]
