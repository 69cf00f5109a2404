"""A VM of a file of the catalogue: what its descriptor tells of it, or the one disk that it is (vergeos.md §2.11).

The work goes on after its request was answered, and says in its row how far it is. What fails, is aborted, or was cut
off by the end of the server leaves no VM: that one carries the import's key as long as it is not whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from dataclasses import replace
from typing import Any

from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.resource import Call
from polyvisor.dialects.vergeos.sources import DIALECT, IMPORT_LOGS, IMPORTS, File, Vm, data_of
from polyvisor.dialects.vergeos.tables import drives, nics, plugging, vms
from polyvisor.dialects.vergeos.tables.files import length_of
from polyvisor.engine.instances import Until
from polyvisor.model.appliance import Appliance, Cable, Part
from polyvisor.model.faults import Fault, NotFound
from polyvisor.model.foreign import Row
from polyvisor.model.ids import mint
from polyvisor.model.principal import Action
from polyvisor.model.units import MIB

_LEAST = 256  # MB of memory that a VM has here
_MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}")
log = logging.getLogger("polyvisor.vergeos")
CUT = "The server ended while this was imported; nothing of it is left"


def job(key: str) -> str:
    """What the work of an import is called."""
    return f"import/{key}"


async def note(call: Call, row: Row, level: str, text: str) -> None:
    """A line of its log; `timestamp` is in microseconds, as of all logs."""
    told = {"vm_import": row.name, "level": level, "text": text, "user": call.principal.name,
            "timestamp": int(call.core.clock().timestamp() * 1e6)}  # fmt: skip
    line = Row(DIALECT, IMPORT_LOGS, f"{row.name}/{mint()}", row.project, "", json.dumps(told))
    await call.core.rows.add(call.principal, [line], Action.INSTANCE_CREATE)


async def tell(call: Call, row: Row, **more: object) -> Row:
    """Its row says this from now on."""
    told = {**data_of(row), "modified": int(call.core.clock().timestamp()), **more}
    row = replace(row, data=json.dumps(told))
    with contextlib.suppress(NotFound):  # somebody has removed it
        await call.core.rows.save(call.principal, [row], Action.INSTANCE_CREATE)
    return row


async def run(call: Call, row: Row, file: File) -> None:
    """From the first look into the file to a VM that is whole, off."""
    try:
        made = await _make(call, row, file)
        await tell(call, row, status="complete", status_info="", importing=False, vm=made.key)
        await note(call, row, "message", f"Import of '{made.name}' is complete")
    except (Fault, Refusal) as error:
        text = error.public if isinstance(error, Fault) else error.text
        await _undone(call, row, "error", text)
    except Exception:
        await _undone(call, row, "error", "Internal error")
        raise
    except asyncio.CancelledError:  # aborted, or the server ends: then the next one finds what is left
        await _undone(call, row, "aborted", "")
        raise


async def _undone(call: Call, row: Row, status: str, text: str) -> None:
    await clear(call, row)
    await tell(call, row, status=status, status_info=text[:1024], importing=False, aborted=status == "aborted", vm=None)
    await note(call, row, "error" if text else "warning", text or "Import was aborted")


async def clear(call: Call, row: Row) -> None:
    """Nothing is left of the VM that this import was making."""
    call.world.forget()
    for vm in await call.world.live():
        if vm.kept.get("import") == row.name:
            async with call.locks.of(vm.row.name):
                await _off(call, vm)
                await vms.dispose(call, vm)


async def _off(call: Call, vm: Vm) -> None:
    """Somebody may have started it through another API."""
    if vm.runs and vm.instance is not None:
        asked = await call.core.power.stop(call.principal, vm.instance.id, force=True)
        await call.core.instances.settle(asked, Until.LAUNCHED, vms.SETTLE)


async def mend(call: Call) -> None:
    """What an earlier server began has failed. Once, before anybody sees it."""
    for row in await call.core.rows.of(DIALECT, [IMPORTS]):
        if data_of(row)["status"] == "importing" and call.jobs.find(job(row.name)) is None:
            try:
                await _undone(call, row, "error", CUT)
            except Fault as fault:  # it is tried again by the next server
                log.warning("import %s: its VM is left: %s (%s)", row.name, fault.public, fault.private)


# -- what is made ------------------------------------------------------------------------------------------------------


async def _make(call: Call, row: Row, file: File) -> Vm:
    asked = data_of(row)
    await note(call, row, "message", f"Importing '{asked['name']}'")
    found = await call.core.appliances.look(call.principal, file.volume, length_of(file))
    about = found or Appliance("", disks=(Part(0, length_of(file)),))
    origin = "import" if found is None else "import_ovf"
    vm = await vms.make(call, _values(asked, about) | {"created_from": origin, "imported": True, "import": row.name})
    row = await tell(call, row, vm=vm.key)
    for place, part in enumerate(about.disks):
        await note(call, row, "message", f"Importing disk {place + 1} of {len(about.disks)}")
        await _disk(call, vm, file, part, asked)
    await _cables(call, row, vm, about.nics, asked)
    return await _whole(call, vm)


def _values(asked: dict[str, Any], about: Appliance) -> dict[str, Any]:
    """What a POST to vms would say. :raise Refusal: it is out of bounds."""
    ram = max(_LEAST, -(-about.memory // MIB))
    told = {"name": asked["name"], "cpu_cores": about.vcpus, "ram": ram, "uefi": about.uefi}
    return vms.TABLE.body(told, new=True)


async def _disk(call: Call, vm: Vm, file: File, part: Part, asked: dict[str, Any]) -> None:
    """A drive of a disk in the file. It is listed first, so that its volume is no file's, and goes with the VM."""
    interface = asked.get("override_drive_interface") or "virtio-scsi"
    told = drives.TABLE.body({"machine": vm.machine, "interface": interface, "media": "disk",
                              "preferred_tier": asked.get("preferred_tier") or "1"}, new=True)  # fmt: skip
    told.pop("machine")
    told |= {"created": call.now, "status": "importing"}
    call.world.forget()
    row = await drives.listed(call, vm, told)
    principal = call.principal.in_project(vm.project)
    volume = await call.core.media.unpack(principal, file.volume, part.length, kind="DISK", at=part.at)
    told = {name: value for name, value in data_of(row).items() if name != "status"}
    told |= {"volume": volume.id, "owned": True, "disksize": volume.size}
    try:
        await call.core.rows.save(call.principal, [replace(row, data=json.dumps(told))], Action.INSTANCE_ALTER)
        await plugging.plug(call, vm, told, volume)
    except BaseException:
        with contextlib.suppress(Fault):
            await call.core.volumes.delete(call.principal, volume.id)
        raise


async def _cables(call: Call, row: Row, vm: Vm, cables: tuple[Cable, ...], asked: dict[str, Any]) -> None:
    """NICs in the networks of the same names, the first of the others in the one that is ours, the rest in none."""
    nets = {net.name: net.host_nic for net in await call.world.nets()}
    used = {nic.mac for nic in await call.world.nics()}
    is_ours_taken, wanted = False, []
    for cable in cables:
        told = nics.TABLE.body({"machine": vm.machine, "interface": asked.get("override_nic_interface") or "virtio"},
                               new=True)  # fmt: skip
        told = {name: value for name, value in told.items() if name not in ("machine", "vnet")}
        net = nets.get(cable.network, "")
        if net == "" and is_ours_taken:
            net = nics.NONE
        elif net == "":
            is_ours_taken = True
        mac = cable.mac.lower().replace("-", ":")
        if asked.get("preserve_macs", True) and mac:
            if _MAC.fullmatch(mac) and not int(mac[:2], 16) & 1 and mac not in used:
                told["macaddress"] = mac
                used.add(mac)
            else:
                await note(call, row, "warning", f"The address {mac[:40]!r} of a NIC cannot be kept")
        wanted.append({**told, "net": net})
    if wanted:
        call.world.forget()
        await nics.add(call, vm, wanted)


async def _whole(call: Call, vm: Vm) -> Vm:
    """It carries the import's key no more."""
    call.world.forget()
    now = next((one for one in await call.world.live() if one.key == vm.key), None)
    if now is None:
        raise NotFound("vm: somebody has removed it meanwhile", field="vm")
    kept = {name: value for name, value in now.kept.items() if name != "import"}
    await call.core.rows.save(call.principal, [replace(now.row, data=json.dumps(kept))], Action.INSTANCE_ALTER)
    return now
