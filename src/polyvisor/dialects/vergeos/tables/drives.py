"""`machine_drives`: volumes of a VM, media that it reads, the disk that an image was unpacked to (vergeos.md §2.6)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Drive, File, Vm, data_of
from polyvisor.dialects.vergeos.tables import plugging
from polyvisor.dialects.vergeos.tables.declare import kept, key, told, words
from polyvisor.dialects.vergeos.tables.files import length_of
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.faults import Fault, NotFound
from polyvisor.model.foreign import Row
from polyvisor.model.ids import mint
from polyvisor.model.principal import Action
from polyvisor.model.units import Bytes

KIND = "machine_drives"
_DISK = "DISK"
INTERFACES = {
    "virtio-scsi": "Virtio-SCSI", "virtio": "Virtio-Legacy", "virtio-scsi-dedicated": "Virtio-SCSI (Dedicated)",
    "ide": "IDE", "ahci": "SATA (AHCI)", "nvme": "NVMe", "usb": "USB", "lsi53c895a": "LSI SCSI",
    "megasas": "LSI MegaRAID SAS",
    "megasas-gen2": "LSI MegaRAID SAS 2", "mptsas1068": "LSI SAS1068",
}  # fmt: skip
MEDIA = {"disk": "Disk", "cdrom": "CD-ROM", "import": "Import Disk", "clone": "Clone Disk", "efidisk": "EFI Disk"}
_STATUSES = words("online", "offline", "importing", "hotplug", "error", "initializing")
_NVRAM = 4 * 1024 * 1024
_PATIENCE = 20.0  # seconds that a request waits for a disk to be unpacked


def _size(drive: Drive) -> int:
    if drive.own and drive.vm.instance is not None:
        return drive.vm.instance.spec.own_disk
    return drive.volume.size if drive.volume is not None else int(drive.kept.get("disksize", 0))


TABLE = Table(
    KIND,
    (
        key(),
        told("id", Kind.STRING, lambda drive: str(drive.key), hidden=True),
        Column("machine", Kind.FK, lambda drive: drive.vm.machine, refers="machines", required=True, summary=True),
        kept("name", Kind.STRING, longest=128, summary=True),
        Column("orderid", Kind.INT, lambda drive: drive.kept.get("orderid", drive.place), low=0, high=10_000),
        kept("description", Kind.TEXT, longest=2048),
        kept("enabled", Kind.BOOL, True),
        kept("serial", Kind.STRING, longest=64),
        kept("asset", Kind.STRING, longest=128),
        kept("interface", Kind.CHOICE, "virtio-scsi", choices=INTERFACES, summary=True),
        kept("media", Kind.CHOICE, "disk", choices=MEDIA, summary=True),
        Column("media_source", Kind.FK, lambda drive: drive.kept.get("media_source"), refers="files"),
        Column("disksize", Kind.INT, _size, low=0, summary=True),
        told("used_bytes", Kind.INT, lambda drive: drive.used),
        kept("preferred_tier", Kind.TIER, "1", choices=dict.fromkeys("12345", "Tier"), summary=True),
        kept("readonly", Kind.BOOL),
        kept("preserve_drive_format", Kind.BOOL),
        kept("optimize", Kind.BOOL),
        kept("fsync", Kind.BOOL),
        kept("discard", Kind.BOOL, True),
        kept("advanced", Kind.TEXT, longest=65536, hidden=True),
        told("ms_2023_kek_applied", Kind.BOOL, lambda drive: False),
        told("created", Kind.TIME, lambda drive: drive.kept.get("created", 0), hidden=True),
    ),
    short=("$key", "name", "machine", "media", "interface"),
    singles={
        "status": Children("machine_drive_status", "parent_drive"),
        "stats": Children("machine_drive_stats", "parent_drive"),
    },
)  # fmt: skip

STATUS = Table(
    "machine_drive_status",
    (
        key(),
        told("parent_drive", Kind.FK, lambda drive: drive.key, refers=KIND),
        Column("status", Kind.CHOICE, lambda drive: drive.status, choices=_STATUSES, read_only=True),
        told("status_info", Kind.STRING, lambda drive: drive.kept.get("status_info", "")),
        told("last_update", Kind.TIME, lambda drive: 0, hidden=True),
    ),
    display="status",
    short=("$key", "parent_drive", "status"),
)


async def _load(world: World) -> Sequence[Drive]:
    return await world.drives()


async def vm_of(call: Call, machine: object, field: str = "machine") -> Vm:
    """The VM with that machine. :raise Refusal: there is none."""
    for vm in await call.world.live():
        if vm.machine == machine:
            return vm
    raise errors.unset(field)


# -- a new one ---------------------------------------------------------------------------------------------------------


async def _create(call: Call, values: dict[str, Any]) -> Made:
    vm = await vm_of(call, values.pop("machine"))
    async with call.locks.of(vm.row.name):
        return Made((await add(call, vm, values)).key)


async def add(call: Call, vm: Vm, values: dict[str, Any]) -> Row:
    """Give a VM a drive: at once while it is off, else to be plugged in or there at its next start."""
    media = values["media"]
    told: dict[str, Any] = {**values, "created": call.now}
    if media in ("import", "clone"):
        return await _imported(call, vm, told)
    if media == "efidisk":
        told["disksize"] = _NVRAM
        return await listed(call, vm, told)
    if media == "cdrom":
        volume = await plugging.medium(call, values.get("media_source"))
        told |= {"volume": volume.id} if volume is not None else {}
    else:
        if values.get("disksize") is None:
            raise errors.required("disksize")
        size = _checked(values["disksize"])
        volume = await call.core.media.create_blank(call.principal.in_project(vm.project), "", size, kind=_DISK)
        told |= {"volume": volume.id, "owned": True}
    row = None
    try:
        row = await listed(call, vm, told)
        if volume is not None and not vm.runs and told["enabled"]:
            await plugging.plug(call, vm, told, volume)
    except BaseException:
        if row is not None:
            await call.core.rows.remove(call.principal, [row], Action.INSTANCE_ALTER)
        if told.get("owned") and volume is not None:
            await call.core.volumes.delete(call.principal, volume.id)
        raise
    return row


async def _imported(call: Call, vm: Vm, told: dict[str, Any]) -> Row:
    """A drive with the disk that a file of the catalogue is an image of; the answer may come before it is there."""
    file = next((one for one in await call.world.files() if one.key == told.get("media_source")), None)
    if file is None:
        raise errors.required("media_source") if told.get("media_source") is None else errors.unset("media_source")
    row = await listed(call, vm, {**told, "status": "importing"})
    done = call.jobs.start(_import(call, vm, row, file), "import")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            await asyncio.shield(done)
    return row


async def _import(call: Call, vm: Vm, row: Row, file: File) -> None:
    """What fails before the client was answered leaves nothing, else a drive that says so."""
    told = {name: value for name, value in data_of(row).items() if name != "status"}
    try:
        principal = call.principal.in_project(vm.project)
        volume = await call.core.media.unpack(principal, file.volume, length_of(file), kind=_DISK)
    except Fault as fault:
        if call.now + _PATIENCE > call.core.clock().timestamp():
            await call.core.rows.remove(call.principal, [row], Action.INSTANCE_ALTER)
        else:
            told |= {"status": "error", "status_info": fault.public}
            await call.core.rows.save(call.principal, [replace(row, data=json.dumps(told))], Action.INSTANCE_ALTER)
        raise
    told |= {"volume": volume.id, "owned": True, "media": "disk", "disksize": volume.size}
    await call.core.rows.save(call.principal, [replace(row, data=json.dumps(told))], Action.INSTANCE_ALTER)
    call.world.forget()
    now = next((one for one in await call.world.live() if one.key == vm.key), None)
    if now is not None and not now.runs and told["enabled"]:
        await plugging.plug(call, now, told, volume)


def _checked(size: int) -> Bytes:
    if size < 1024 * 1024:
        raise invalid_field("disksize", "must be at least 1048576")
    return Bytes(size)


async def listed(call: Call, vm: Vm, told: dict[str, Any]) -> Row:
    """The row of a drive that keeps this; its place is behind those that are there."""
    count = sum(drive.vm.key == vm.key for drive in await call.world.drives())
    told["name"] = told.get("name") or f"drive_{count}"
    told.setdefault("orderid", count)
    row = Row(DIALECT, KIND, f"{vm.row.name}/{mint()}", vm.project, vm.row.name, json.dumps(told))
    return (await call.core.rows.add(call.principal, [row], Action.INSTANCE_ALTER))[0]


# -- in order ----------------------------------------------------------------------------------------------------------


async def arrange(call: Call, vm: Vm) -> None:
    """Before a start: all that is enabled is attached, in the order in which it is to be booted."""
    drives = [one for one in await call.world.drives() if one.vm.key == vm.key and one.volume is not None]
    order = str(vm.kept.get("boot_order", "cd"))
    first = "cdrom" if order.startswith("d") else "disk"
    drives.sort(key=lambda one: (one.kept.get("media", "disk") != first, one.kept.get("orderid", one.place), one.key))
    assert vm.instance is not None
    wanted = [one for one in drives if one.kept.get("enabled", True) and not one.kept.get("found")]
    ours = {one.volume.id for one in drives if one.volume is not None and not one.kept.get("found")}
    has = [mount.volume for mount in vm.instance.mounts if mount.volume in ours]
    order_now = [one.volume.id for one in wanted if one.volume is not None]
    if has == order_now:
        return
    keep = 0
    while keep < min(len(has), len(order_now)) and has[keep] == order_now[keep]:
        keep += 1
    for drive in drives:
        if drive.volume is not None and drive.volume.id in has[keep:]:
            await plugging.unplug(call, drive)
    for drive in wanted[keep:]:
        assert drive.volume is not None
        await plugging.plug(call, vm, drive.kept, drive.volume)
    call.world.forget()


# -- changed and removed -----------------------------------------------------------------------------------------------


async def _change(call: Call, drive: Drive, values: dict[str, Any]) -> None:
    async with call.locks.of(drive.vm.row.name):
        await change(call, drive, values)


async def change(call: Call, drive: Drive, values: dict[str, Any]) -> None:
    """As a PUT. :raise Refusal: a running machine has it."""
    if values.get("machine", drive.vm.machine) != drive.vm.machine:
        raise invalid_field("machine", "cannot be changed")
    if values.get("media", drive.kept.get("media", "disk")) != drive.kept.get("media", "disk"):
        raise invalid_field("media", "cannot be changed")
    told = {**drive.kept, **values}
    volume = drive.volume
    if "media_source" in values and told.get("media") == "cdrom":
        volume = await plugging.medium(call, values["media_source"])
        told["volume"] = volume.id if volume is not None else ""
    moved = any(told.get(name) != drive.kept.get(name) for name in ("volume", "interface", "readonly"))
    moved = moved or told.get("enabled", True) != drive.kept.get("enabled", True)
    if moved and drive.online and (told.get("volume") != drive.kept.get("volume") or not told.get("enabled", True)):
        raise errors.conflict("Unable to change online drive")
    if "disksize" in values:
        await _resize(call, drive, values["disksize"])
    if moved and not drive.vm.runs and not drive.own:
        if drive.mount is not None:
            await plugging.unplug(call, drive)
        if volume is not None and told.get("enabled", True):
            await plugging.plug(call, drive.vm, told, volume)
    await call.core.rows.save(call.principal, [replace(drive.row, data=json.dumps(told))], Action.INSTANCE_ALTER)


async def _resize(call: Call, drive: Drive, size: int) -> None:
    now = _size(drive)
    if size == now:
        return
    if size < now:
        raise invalid_field("disksize", "a drive cannot be shrunk")
    if drive.volume is None or not drive.kept.get("owned"):
        raise invalid_field("disksize", "this drive has a size of its own")
    await call.core.volumes.resize(call.principal, drive.volume.id, Bytes(-(-size // 512) * 512))


async def _remove(call: Call, drive: Drive) -> None:
    async with call.locks.of(drive.vm.row.name):
        await remove(call, drive)


async def remove(call: Call, drive: Drive) -> None:
    """With its volume, if that is its own. :raise Refusal: a running machine has it."""
    if drive.online or drive.status == "importing":
        raise errors.conflict("Unable to delete online drive")
    if drive.own:
        raise errors.conflict("This drive holds the image that the VM was made of")
    if drive.mount is not None:
        await plugging.unplug(call, drive)
    await call.core.rows.remove(call.principal, [drive.row], Action.INSTANCE_ALTER)
    if drive.kept.get("owned") and drive.volume is not None:
        with contextlib.suppress(NotFound):
            await call.core.volumes.delete(call.principal, drive.volume.id)


async def erase(call: Call, drive: Drive) -> None:
    """All of it is zeros: it has another volume, of the same size. :raise Refusal: a running machine has it."""
    if drive.volume is None or not drive.kept.get("owned"):
        raise errors.conflict("Only a disk of the VM's own can be erased")
    if drive.online:
        raise errors.conflict("Unable to erase online drive")
    principal = call.principal.in_project(drive.vm.project)
    blank = await call.core.media.create_blank(principal, "", drive.volume.size, kind=_DISK)
    told = replace(drive.row, data=json.dumps({**drive.kept, "volume": blank.id}))
    gone = replace(drive.row, name=f"{drive.vm.row.name}/{mint()}", data=leaving(drive))
    await call.core.rows.swap(call.principal, [told], [gone], Action.INSTANCE_ALTER)
    call.world.forget()
    for one in await call.world.all_drives():
        if one.row.name == gone.name:
            await remove(call, one)
    if drive.mount is not None:
        await plugging.plug(call, drive.vm, drive.kept, blank)


def leaving(drive: Drive) -> str:
    """What the row of a drive keeps that is taken away from now on: should the server end, the next one does so."""
    return json.dumps({**drive.kept, "leaving": True})


async def _universal(call: Call, drive: Drive, body: object) -> object:
    """Secure Boot keys are the firmware's here: there are none to apply to a drive."""
    raise Refusal(422, "The drive has no EFI variables to apply")


RESOURCES = (
    Resource(TABLE, _load, _create, _change, _remove, {"apply_universal_vars": _universal}, of_vm=True),
    Resource(STATUS, _load, of_vm=True),
)
