"""A VM, or one of its disks, as a file of the catalogue. No action of upstream's does it: NOTES.md has its form."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from polyvisor.dialects.vergeos import copying, errors
from polyvisor.dialects.vergeos.language.errors import not_in_list
from polyvisor.dialects.vergeos.resource import Call
from polyvisor.dialects.vergeos.sources import COPY, Vm
from polyvisor.dialects.vergeos.tables import files
from polyvisor.model.appliance import Appliance, Cable
from polyvisor.model.units import MIB, Bytes
from polyvisor.model.volume import Volume

_FORMS = ("ova", "qcow2", "raw")
_PATIENCE = 20.0  # seconds that a request waits for a file to be made


async def export(call: Call, vm: Vm, params: Mapping[str, Any]) -> Mapping[str, str]:
    """Its name, and its key if it is there already; a file that takes longer appears under that name when it is whole.

    :raise Refusal: what is asked for cannot be; a fault that comes later is in the server's log.
    """
    form = str(params.get("format") or "ova")
    if form not in _FORMS:
        raise not_in_list("format", form[:100])
    if not vm.kept.get("allow_export", True):
        raise errors.conflict("The VM does not allow to be exported")
    name = files.checked_name(str(params.get("name") or f"{vm.name.replace('/', '_')}.{form}"))
    content = await copying.content_of(call, vm)
    if vm.instance is not None and not vm.instance.spec.blank:
        raise errors.conflict("The VM has a disk that stands on an image; only drives are exported")
    keys = {drive.row.name: str(drive.key) for drive in await call.world.drives()}
    content.drives = _chosen(content, form, params.get("drive"), keys)
    await files.check_free(call, name)
    done = call.jobs.start(_export(call, vm, content, form, name), "export")
    await asyncio.wait([done], timeout=_PATIENCE)
    if not done.done():
        return {"name": name}
    return {"name": name, "file": str(done.result())}


def _chosen(content: copying.Content, form: str, wanted: object, keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """The drives that are exported: those with a disk of their own, or the one that is told, by its key or its name."""
    owned = sorted((one for one in content.drives if one.get("owned")), key=lambda one: int(one.get("orderid", 0)))
    if wanted not in (None, ""):
        owned = [one for one in owned if str(wanted) in (one.get("name"), keys.get(str(one.get("row"))))]
        if not owned:
            raise errors.unset("drive")
    if form != "ova" and len(owned) != 1:
        raise errors.required("drive")
    return owned


async def _export(call: Call, vm: Vm, content: copying.Content, form: str, name: str) -> int:
    """Disks are copied first, at one moment: so a VM that runs goes on, and what is written down is one state."""
    if form == "raw":
        (made,) = await copying.copied(call, vm, content, files.PLAIN)
        return await files.listed(call, name, made, made.size)
    copies: list[Volume] = await copying.copied(call, vm, content, COPY)
    try:
        about = await _about(call, vm, content) if form == "ova" else None
        principal = call.principal.in_project(vm.project)
        made, length = await call.core.appliances.pack(principal, copies, about, files.PLAIN)
    finally:
        await copying.discard(call, copies)
    return await files.listed(call, name, made, length)


async def _about(call: Call, vm: Vm, content: copying.Content) -> Appliance:
    cores, ram, uefi = content.shape
    names = {net.host_nic: net.name for net in await call.world.nets()}
    here = {nic.row.name: nic.mac for nic in await call.world.nics()}
    cables = [
        Cable(names.get(str(one.get("net", "")), ""), str(one.get("mac") or here.get(str(one.get("row")), "")))
        for one in content.nics
    ]
    return Appliance(vm.name, cores, Bytes(ram * MIB), uefi, tuple(cables))
