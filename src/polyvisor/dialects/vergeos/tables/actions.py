"""`vm_actions`: what is done to VMs (the seed, and vergeos.md §2.2, §3.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from polyvisor.dialects.vergeos import copying, errors, exporting
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, not_in_list
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource, nothing
from polyvisor.dialects.vergeos.sources import Drive, Vm
from polyvisor.dialects.vergeos.tables import drives, nics, plugging, snapshots
from polyvisor.dialects.vergeos.tables.declare import key, words
from polyvisor.model.face import Face
from polyvisor.model.faults import NoCapacity, OverQuota, Unavailable, WrongState
from polyvisor.model.guest import Exec, Exit
from polyvisor.model.units import Seconds

RUNNING = "Cannot power on VM: already in running state"
NOT_RUNNING = "Cannot power off VM: not in running state"
FULL = "Insufficient cluster resources to start VM"
_OFF = frozenset({Face.STOPPED, Face.FAILED, Face.SUSPENDED})
_COMMAND_LIMIT = Seconds(25.0)
Action = Callable[[Call, Vm, Mapping[str, Any]], Awaitable[Mapping[str, str] | None]]


# -- power -------------------------------------------------------------------------------------------------------------


async def power_on(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """:raise Refusal: it runs already, is disabled, or there is no room for it."""
    node = params.get("preferred_node")
    if node is not None and str(node) != str((await call.world.node()).key):
        raise errors.unset("preferred_node")
    if vm.face not in _OFF:
        raise errors.conflict(RUNNING)
    if not vm.kept.get("enabled", True):
        raise errors.conflict("Cannot power on VM: it is disabled")
    if vm.kept.get("import"):
        raise errors.conflict("Cannot power on VM: it is being imported")
    if vm.face is not Face.SUSPENDED:
        await drives.arrange(call, vm)
    try:
        await call.core.power.start(call.principal, _id(vm))
    except (NoCapacity, OverQuota) as fault:
        raise Refusal(507, FULL) from fault


async def power_off(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """The power button, and no more: a guest that does not obey runs on."""
    if vm.face is not Face.RUNNING:
        raise errors.conflict(NOT_RUNNING)
    try:
        await call.core.power.press(call.principal, _id(vm))
    except WrongState as fault:
        raise errors.conflict(NOT_RUNNING) from fault


async def kill(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """Ended at once, whatever it is doing."""
    if vm.face is Face.STOPPED:
        raise errors.conflict(NOT_RUNNING)
    await call.core.power.stop(call.principal, _id(vm), force=True)


async def reset(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """The reset button; or, graceful, the guest is asked to shut down and is started again."""
    if vm.face is not Face.RUNNING:
        raise errors.conflict(NOT_RUNNING)
    if _is(params.get("graceful")):
        await call.core.power.restart(call.principal, _id(vm))
    else:
        await call.core.power.reset(call.principal, _id(vm))


async def _graceful(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    await reset(call, vm, {"graceful": True})


async def hibernate(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """Memory and devices are saved, and it goes on there when it is powered on."""
    if vm.face is not Face.RUNNING:
        raise errors.conflict("Cannot hibernate VM: not in running state")
    await call.core.power.suspend(call.principal, _id(vm))


async def migrate(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """There is one host."""
    raise errors.conflict("Cannot migrate VM: there is no other node")


# -- copies ------------------------------------------------------------------------------------------------------------


async def clone(call: Call, vm: Vm, params: Mapping[str, Any]) -> Mapping[str, str]:
    """Another VM; of a snapshot, too."""
    name = str(params.get("name") or f"{vm.name}_{call.now}")
    if len(name) > 128 or '"' in name or not name.isprintable():
        raise Refusal(422, "Validation error on field: 'name' - 'has characters that are not allowed'")
    description = params.get("description")
    made = await copying.clone(
        call, vm, name, description=None if description is None else str(description),
        keep_macs=_is(params.get("preserve_macs")),
    )  # fmt: skip
    machine = str(made.machine)
    cluster = str(await call.world.cluster())
    return {"vmkey": str(made.key), "machinekey": machine, "machinestatuskey": machine, "clusterkey": cluster}


async def snapshot(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """As a POST to machine_snapshots."""
    kept = params.get("retention")
    expires = call.now + int(kept) if isinstance(kept, int | str) and str(kept).isdecimal() and int(kept) else None
    name = str(params.get("name") or f"{vm.name}_{call.now}")
    told = {"name": name, "expires": expires, "description": str(params.get("description", ""))}
    await snapshots.take(call, vm, told)


async def restore(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """In place: of the hidden VM of a snapshot, or of a VM that names one."""
    wanted = params.get("snapshot", params.get("snapshot_id"))
    snap, target = vm.snap, vm if vm.snap is None else None
    if snap is None and wanted is None:
        raise errors.required("Snapshot")
    if snap is None:
        snap = next((one for one in await call.world.snaps() if str(one.row.key) == str(wanted)), None)
    elif target is None:
        target = next((one for one in await call.world.live() if one.machine == snap.source_machine), None)
    if snap is None or target is None or snap.source_machine != target.machine:
        raise errors.unset("snapshot")
    await copying.revert(call, target, snap)
    if _is(params.get("poweron")):
        call.world.forget()
        await power_on(call, next(one for one in await call.world.live() if one.key == target.key), {})


async def erase(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """A drive is as empty as a new one."""
    drive = await _drive(call, vm, {"device": params.get("drive", params.get("device"))}, "Drive")
    await drives.erase(call, drive)


async def look_again(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """Its state is asked anew with every request: there is nothing to be brought up to date."""


async def quiesce(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """The guest writes down all that it has, and goes on."""
    await _run(call, vm, ("sync",))


# -- parts -------------------------------------------------------------------------------------------------------------


async def hotplug_drive(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """A drive comes to a running machine, or goes."""
    drive = await _drive(call, vm, params)
    if _is(params.get("unplug")):
        if not drive.online or drive.own:
            raise errors.conflict("Unable to unplug drive: it is not plugged in")
        await plugging.unplug(call, drive)
        return
    if not vm.runs:
        raise errors.conflict("Unable to hotplug drive: VM is not running")
    if drive.online:
        raise errors.conflict("Unable to hotplug drive: it is online")
    if drive.kept.get("media", "disk") != "disk" or drive.kept.get("interface") not in ("virtio", "virtio-scsi"):
        raise Refusal(422, "Only virtio and virtio-scsi disks can be hot plugged")
    if drive.volume is None:
        raise errors.conflict("Unable to hotplug drive: it has no disk")
    await plugging.plug(call, vm, drive.kept, drive.volume)


async def hotplug_nic(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """A NIC comes to a running machine, or goes."""
    wanted = params.get("device")
    if wanted in (None, ""):
        raise errors.required("Device")
    nic = next((one for one in await call.world.nics() if one.vm.key == vm.key and str(one.key) == str(wanted)), None)
    if nic is None:
        raise errors.unset("device")
    if _is(params.get("unplug")):
        if not nic.online or nic.index is None:
            raise errors.conflict("Unable to unplug NIC: it is not plugged in")
        await call.core.nics.unplug(call.principal, _id(vm), nic.index)
        return
    if not vm.runs:
        raise errors.conflict("Unable to hotplug NIC: VM is not running")
    if nic.online:
        raise errors.conflict("Unable to hotplug NIC: it is online")
    if nic.vnet is None:
        raise errors.conflict("Unable to hotplug NIC: it is in no network")
    await call.core.nics.plug(call.principal, _id(vm), str(nic.kept.get("net", "")), str(nic.kept.get("mac", "")))


async def change_cd(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """Another medium for a drive, from the next start on."""
    drive = await _drive(call, vm, {"device": params.get("drive", params.get("device"))}, "Drive")
    await drives.change(call, drive, {"media_source": params.get("file")})


async def change_net(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """Another network for a NIC, from the next start on."""
    wanted = params.get("nic", params.get("device"))
    for nic in await call.world.nics():
        if nic.vm.key == vm.key and str(nic.key) == str(wanted):
            vnet = params.get("vnet")
            await nics.change(call, nic, {"vnet": None if vnet is None else int(str(vnet))})
            return
    raise errors.required("NIC") if wanted is None else errors.unset("nic")


async def _drive(call: Call, vm: Vm, params: Mapping[str, Any], name: str = "Device") -> Drive:
    wanted = params.get("device")
    if wanted in (None, ""):
        raise errors.required(name)
    for drive in await call.world.drives():
        if drive.vm.key == vm.key and str(drive.key) == str(wanted):
            return drive
    raise errors.unset("device")


# -- guests ------------------------------------------------------------------------------------------------------------


async def paste(call: Call, vm: Vm, params: Mapping[str, Any]) -> None:
    """Text is typed on the console."""
    text = params.get("text")
    if not isinstance(text, str) or not text:
        raise errors.required("Text")
    if len(text) > 65536:
        raise Refusal(422, "Validation error on field: 'text' - 'is longer than 65536'")
    await call.core.streams.type(call.principal, _id(vm), text.encode())


async def execute(call: Call, vm: Vm, params: Mapping[str, Any]) -> Mapping[str, str]:
    """A command in the guest, by its agent."""
    command = params.get("command")
    if not isinstance(command, str) or not command:
        raise errors.required("Command")
    code, output = await _run(call, vm, ("/bin/sh", "-c", command))
    return {"exitcode": str(code), "output": output}


async def _run(call: Call, vm: Vm, argv: tuple[str, ...]) -> tuple[int, str]:
    if vm.face is not Face.RUNNING:
        raise errors.conflict("The VM is not running")
    try:
        async with asyncio.timeout(_COMMAND_LIMIT):
            process = await call.core.streams.execute(call.principal, _id(vm), Exec(argv, timeout=_COMMAND_LIMIT))
            await process.eof()
            output = b""
            try:
                while not isinstance(part := await process.read(), Exit):
                    output += getattr(part, "data", b"")[: 1024 * 1024 - len(output)]
            finally:
                await process.close()
    except TimeoutError as error:
        raise Refusal(408, "The guest agent does not answer") from error
    except Unavailable as fault:
        raise errors.conflict("The guest has no agent") from fault
    return part.code if part.code is not None else -1, output.decode(errors="replace")


def _is(value: object) -> bool:
    return value in (True, 1, "1", "true", "True")


def _id(vm: Vm) -> str:
    assert vm.instance is not None
    return vm.instance.id


ACTIONS: Mapping[str, Action] = {
    "poweron": power_on, "poweroff": power_off, "kill": kill, "reset": reset, "guestreset": _graceful,
    "guestreboot": _graceful, "hibernate": hibernate, "migrate": migrate, "move": migrate, "clone": clone,
    "snapshot": snapshot, "restore": restore, "quiesce_snapshot": quiesce, "fsync_strict": quiesce,
    "erase_drive": erase, "refresh": look_again, "hotplugdrive": hotplug_drive,
    "hotplugnic": hotplug_nic, "changecd": change_cd, "changenet": change_net, "paste": paste,
    "execute": execute, "export": exporting.export,
}  # fmt: skip
OF_ROWS: Mapping[str, Action] = {"export": exporting.export}
"""Those that are asked of a VM's row as well."""
_OF_SNAPSHOTS = frozenset({"clone", "restore", "export"})
_LOCKED = frozenset(ACTIONS) - {"execute", "export", "paste", "quiesce_snapshot", "fsync_strict", "refresh"}


async def _create(call: Call, values: dict[str, Any]) -> Made:
    """One action. The answer comes when it is initiated (vergeos.md §3.9)."""
    action, params = values["action"], values.get("params")
    if action not in ACTIONS:
        raise not_in_list("action", action)
    vm = await _named(call, values["vm"])
    if vm.snap is not None and action not in _OF_SNAPSHOTS:
        raise errors.conflict("A snapshot can only be cloned, exported or restored")
    params = params if isinstance(params, Mapping) else {}
    if action not in _LOCKED:
        return Made(None, await ACTIONS[action](call, vm, params))
    async with call.locks.of(vm.row.subject):  # of two who ask at once, the second sees what the first one did
        call.world.forget()
        return Made(None, await ACTIONS[action](call, await _named(call, values["vm"]), params))


async def _named(call: Call, key: object) -> Vm:
    for vm in await call.world.vms():
        if vm.key == key:
            return vm
    raise Refusal(404, f"Resource '/v4/vms/{key}' not found during post")


TABLE = Table(
    "vm_actions",
    (
        key(lambda source: 0),
        Column("vm", Kind.FK, lambda source: None, refers="vms", required=True),
        Column("action", Kind.STRING, lambda source: None, required=True, longest=64),
        Column("params", Kind.JSON, lambda source: None),
        Column("actions", Kind.CHOICE, lambda source: None, choices=words(*ACTIONS), read_only=True, hidden=True),
    ),
)
RESOURCES = (Resource(TABLE, nothing, _create),)
