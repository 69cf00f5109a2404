"""What a VM is, written down: to be kept as a snapshot, made anew as a clone, or gone back to.

Its drives are volumes, so a copy of a VM has copies of those, of one moment where it runs. A VM that an image was
unpacked for has a disk of its own as well, which the engine's snapshots keep.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from polyvisor.dialects.kit.names import named
from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.resource import Call
from polyvisor.dialects.vergeos.sources import COPY, DIALECT, Snap, Vm, data_of
from polyvisor.dialects.vergeos.tables import cloudinit, devices, drives, nics, plugging, vms
from polyvisor.engine.instances import Until
from polyvisor.model.faults import Exists, Fault, NotFound
from polyvisor.model.foreign import Foreign, Row
from polyvisor.model.ids import InstanceId, VolumeId, mint
from polyvisor.model.instance import Power
from polyvisor.model.principal import Action
from polyvisor.model.request import Create
from polyvisor.model.snapshot import SnapshotKind
from polyvisor.model.spec import Firmware, Reshape
from polyvisor.model.units import MIB, Bytes
from polyvisor.model.volume import Volume

LIMIT = 600.0  # seconds for disks to be copied


@dataclass
class Content:
    """A VM, written down. `drives` and `files` are what their rows keep; of each drive, `volume` is where its bytes are
    now. `engine` is the snapshot of its own disk, if it has one."""

    vm: dict[str, Any]
    shape: tuple[int, int, bool]
    drives: list[dict[str, Any]]
    nics: list[dict[str, Any]]
    files: list[dict[str, Any]]
    engine: str = ""
    devices: list[dict[str, Any]] = field(default_factory=list)

    def kept(self) -> dict[str, Any]:
        """As a snapshot keeps it."""
        told = {"vm": self.vm, "shape": list(self.shape), "drives": self.drives, "nics": self.nics}
        return {**told, "files": self.files, "engine": self.engine, "devices": self.devices}


async def content_of(call: Call, vm: Vm) -> Content:
    """What a VM is now, or what a snapshot kept of one."""
    if vm.snap is not None:
        return _from_snapshot(vm.snap)
    told = [
        {**drive.kept, "row": drive.row.name}
        for drive in await call.world.drives()
        if drive.vm.key == vm.key and not drive.own and not drive.kept.get("found")
    ]
    places = [{**nic.kept, "row": nic.row.name} for nic in await call.world.nics() if nic.vm.key == vm.key]
    files = [data_of(row) for row in await call.core.rows.of(DIALECT, [cloudinit.KIND], [vm.row.name])]
    others = [one.told for one in await call.world.devices() if one.vm.key == vm.key]
    return Content(dict(vm.kept), vm.shape, told, places, files, devices=others)


def _from_snapshot(snap: Snap) -> Content:
    kept = snap.kept
    if snap.engine is not None and "shape" not in kept:  # one that was taken through another API
        spec = snap.engine.spec
        shape = (spec.vcpus, spec.memory // MIB, spec.firmware is Firmware.UEFI)
        return Content({}, shape, [], [], [], snap.engine.id)
    if kept.get("state") != "ready":
        raise errors.conflict("The snapshot is not ready")
    told = [{**drive, "volume": drive.get("copy") or drive.get("volume", "")} for drive in kept["drives"]]
    cores, ram, uefi = kept["shape"]
    engine = str(kept.get("engine", ""))
    return Content(
        kept["vm"], (cores, ram, uefi), told, kept["nics"], kept["files"], engine, kept.get("devices", [])
    )  # fmt: skip


async def copied(call: Call, vm: Vm, content: Content, kind: str = "") -> list[Volume]:
    """Copies of the drives' own volumes, in the order of the drives that have one. :raise Refusal: one is gone."""
    volumes = await call.world.volumes()
    sources = []
    for drive in content.drives:
        if drive.get("owned"):
            volume = volumes.get(drive["volume"])
            if volume is None:
                raise errors.conflict(f"The volume of drive '{drive.get('name', '')}' is not there any more")
            sources.append(volume)
    if not sources:
        return []
    return list(await call.core.media.copy(call.principal.in_project(vm.project), sources, kind))


async def discard(call: Call, volumes: Sequence[Volume]) -> None:
    """Nobody needs these copies."""
    for volume in volumes:
        with contextlib.suppress(Fault):
            await call.core.volumes.delete(call.principal, volume.id)


# -- snapshots ---------------------------------------------------------------------------------------------------------


async def take(call: Call, vm: Vm, row: Row) -> None:
    """Fill a snapshot's row, which says that it is being made. What cannot be made leaves nothing."""
    made: list[Volume] = []
    engine = ""
    try:
        content = await content_of(call, vm)
        if vm.instance is not None and not vm.instance.spec.blank:
            note = Foreign(DIALECT, json.dumps({"of": row.name}))  # for who finds it when this server is gone
            taken = await call.core.snapshots.create(
                call.principal, vm.instance.id, kind=SnapshotKind.DISK, foreign=note
            )
            engine = content.engine = (await call.core.snapshots.settle(taken, Until.LAUNCHED, LIMIT)).id
        made = await copied(call, vm, content, COPY)
        left = list(made)
        for drive in content.drives:
            if drive.get("owned"):
                drive["copy"] = left.pop(0).id
        told = {**data_of(row), **content.kept(), "state": "ready"}
        await call.core.rows.save(call.principal, [replace(row, data=json.dumps(told))], Action.INSTANCE_OPERATE)
    except BaseException:
        await discard(call, made)
        with contextlib.suppress(Fault):
            if engine:
                await call.core.snapshots.delete(call.principal, engine)
        with contextlib.suppress(NotFound):
            await call.core.rows.remove(call.principal, [row], Action.INSTANCE_OPERATE)
        raise


async def revert(call: Call, vm: Vm, snap: Snap) -> None:
    """A VM that is off becomes what it was: the same keys, its drives' bytes and all that it kept (vergeos.md §3.4)."""
    assert vm.instance is not None
    if vm.runs:
        raise errors.conflict("VM must be powered off")
    content = _from_snapshot(snap)
    made = await copied(call, vm, content)
    try:
        if content.engine:
            asked = await call.core.snapshots.revert(call.principal, vm.instance.id, content.engine)
            await call.core.instances.settle(asked, Until.LAUNCHED, LIMIT)
        if snap.engine is not None and "shape" not in snap.kept:
            return
        if vm.instance.spec.blank:
            cores, ram, uefi = content.shape
            firmware = Firmware.UEFI if uefi else Firmware.BIOS
            wanted = Reshape(vcpus=cores, memory=Bytes(ram * MIB), firmware=firmware)
            await call.core.shapes.reshape(call.principal, vm.instance.id, lambda _: wanted)
    except BaseException:
        await discard(call, made)
        raise
    gone = [
        drive for drive in await call.world.drives()
        if drive.vm.key == vm.key and not drive.own and not drive.kept.get("found")
    ]  # fmt: skip
    kept = {**content.vm, "name": vm.name, "modified": call.now}
    saved = [replace(drive.row, data=drives.leaving(drive)) for drive in gone]
    saved.append(replace(vm.row, data=json.dumps(kept)))
    rows = _drives(vm, content, made, await call.world.volumes())
    # all at once: a server that is killed before or after leaves the VM with these drives or with those
    await call.core.rows.swap(call.principal, saved, rows, Action.INSTANCE_ALTER)
    for drive in gone:
        await drives.remove(call, drive)
    await _plug(call, vm.instance.id)


# -- clones ------------------------------------------------------------------------------------------------------------


async def clone(call: Call, vm: Vm, name: str, *, description: str | None, keep_macs: bool) -> Vm:
    """Another VM that is what this one is, off."""
    content = await content_of(call, vm)
    kept = {**content.vm, "created_from": "clone", "creator": call.principal.name, "modified": call.now}
    kept = {key: value for key, value in kept.items() if key != "name"}
    if description is not None:
        kept["description"] = description
    made = await copied(call, vm, content)
    instance = None
    try:
        async with call.locks.of("names"):
            await vms.check_name(call, name)
            instance = await _made(call, vm, name, kept, content)
        await _furnish(call.about(instance), content, made, keep_macs=keep_macs)
    except BaseException:
        if instance is not None:
            with contextlib.suppress(Fault):
                asked = await call.core.power.delete(call.principal, instance)
                await call.core.instances.settle(asked, Until.LAUNCHED, LIMIT)
        await discard(call, made)
        raise
    call.world.forget()
    return (await call.about(instance).world.live())[0]


async def _made(call: Call, vm: Vm, name: str, kept: dict[str, Any], content: Content) -> InstanceId:
    """The new instance, off."""
    principal = call.principal.in_project(vm.project)
    ours, foreign = named(DIALECT, name, "vm", **kept)
    engine, transient = content.engine, None
    if not engine and vm.instance is not None and not vm.instance.spec.blank:
        taken = await call.core.snapshots.create(principal, vm.instance.id, kind=SnapshotKind.DISK, transient=True)
        engine = transient = (await call.core.snapshots.settle(taken, Until.LAUNCHED, LIMIT)).id
    cores, ram, uefi = content.shape
    if engine:
        wanted = Create(snapshot=engine, name=ours, vcpus=cores, memory=Bytes(ram * MIB), power=Power.OFF,
                        foreign=foreign)  # fmt: skip
    else:
        values = {
            **{c.name: c.default for c in vms.COLUMNS},
            **kept,
            "name": name,
            "cpu_cores": cores,
            "ram": ram,
            "uefi": uefi,
        }
        wanted = replace(vms.wanted(values, creator=call.principal.name, now=call.now), foreign=foreign)
    try:
        asked = await call.core.instances.create(principal, wanted)
        await call.core.instances.settle(asked, Until.LAUNCHED, LIMIT)
    except Exists as error:
        raise Refusal(422, vms.TAKEN) from error
    finally:
        if transient is not None:
            await call.core.snapshots.discard(transient)
    return asked.instance.id


async def _furnish(call: Call, content: Content, made: list[Volume], *, keep_macs: bool) -> None:
    """Drives, NICs, a TPM and files for the VM of the call, which has none of these."""
    (vm,) = await call.world.live()
    assert vm.instance is not None
    wanted = _drives(vm, content, made, await call.world.volumes())
    await call.core.rows.add(call.principal, wanted, Action.INSTANCE_ALTER)
    await _plug(call, vm.instance.id)
    call.world.forget()
    (vm,) = await call.world.live()
    if content.devices:  # what its own remembers is no other VM's
        await devices.add(call, vm, content.devices[0], instead=True)
    if vm.instance is None or not vm.instance.spec.blank:
        return
    some = [{k: v for k, v in one.items() if k not in ("row", "mac")} for one in content.nics]
    if keep_macs:
        some = [
            {**one, "mac": was["mac"]} if was.get("mac") else one for one, was in zip(some, content.nics, strict=True)
        ]
    await nics.add(call, vm, some)
    if content.files:
        files = [{k: one[k] for k in ("name", "contents", "render")} for one in content.files]
        await cloudinit.add(call, vm, files)


def _drives(vm: Vm, content: Content, made: Sequence[Volume], volumes: Mapping[VolumeId, Volume]) -> list[Row]:
    """The rows of drives that are what was written down, with these copies of those that were the VM's own."""
    left, rows = list(made), []
    for told in sorted(content.drives, key=lambda one: int(one.get("orderid", 0))):
        here = {name: value for name, value in told.items() if name not in ("copy", "row")}
        volume = left.pop(0) if told.get("owned") else volumes.get(told.get("volume", VolumeId("")))
        if volume is not None:
            here["volume"] = volume.id
        name = f"{vm.row.name}/{mint()}"
        rows.append(Row(DIALECT, drives.KIND, name, vm.project, vm.row.name, json.dumps(here)))
    return rows


async def _plug(call: Call, instance: InstanceId) -> None:
    """Every drive that the VM is to have and has not yet."""
    call = call.about(instance)
    for drive in await call.world.drives():
        if drive.volume is not None and drive.mount is None and drive.kept.get("enabled", True):
            await plugging.plug(call, drive.vm, drive.kept, drive.volume)
