"""`machine_devices`: what a VM has beside drives and NICs (vergeos.md §2.8). Here that is a TPM, one at most.

It comes and goes while its VM is off, and what it remembers with it. The host's own devices are given to nobody.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import invalid_field
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Device, Vm
from polyvisor.dialects.vergeos.tables.declare import constant, kept, key, told, words
from polyvisor.dialects.vergeos.tables.drives import vm_of
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.face import Face
from polyvisor.model.foreign import Row
from polyvisor.model.ids import mint
from polyvisor.model.principal import Action
from polyvisor.model.spec import Reshape, Spec, Tpm

KIND = "machine_devices"
_TYPES = words(
    "gpu", "nvidia_vgpu", "node_usb_devices", "node_sriov_nic_devices", "node_pci_devices", "node_host_gpu_devices",
    "node_nvidia_vgpu_devices", tpm="Trusted Platform Module (vTPM)",
)  # fmt: skip
_MORE = invalid_field("type", "a VM has one TPM at most")
_STATUSES = words("online", "offline", "errors", "warning", "hotplug", "initializing", "missing", "idle")

TABLE = Table(
    KIND,
    (
        key(),
        Column("machine", Kind.FK, lambda device: device.vm.machine, refers="machines", required=True, summary=True),
        constant("machine_type", Kind.STRING, "vm"),
        kept("name", Kind.STRING, longest=128, summary=True),
        kept("description", Kind.TEXT, longest=2048),
        Column("type", Kind.CHOICE, lambda device: "tpm", choices=_TYPES, required=True, summary=True),
        kept("orderid", Kind.INT, 0, low=0, high=30),
        told("uuid", Kind.STRING, lambda device: device.uuid),
        Column("enabled", Kind.BOOL, lambda device: device.enabled, default=True),
        kept("optional", Kind.BOOL),
        Column("resource_group", Kind.FK, lambda device: None, refers="resource_groups"),
        kept("settings_args", Kind.JSON, hidden=True),
        Column("count", Kind.INT, lambda device: 1, default=1, low=1, high=16, arg=True),
        told("created", Kind.TIME, lambda device: device.kept.get("created", 0)),
        told("modified", Kind.TIME, lambda device: device.kept.get("modified", 0)),
    ),
    short=("$key", "name", "machine", "type"),
    singles={"status": Children("machine_device_status", "device")},
)

STATUS = Table(
    "machine_device_status",
    (
        key(),
        told("device", Kind.FK, lambda device: device.key, refers=KIND),
        told("status", Kind.CHOICE, lambda device: "online" if device.online else "offline", choices=_STATUSES),
        constant("status_info", Kind.STRING, ""),
    ),
    display="status",
    short=("$key", "device", "status"),
)


async def _load(world: World) -> Sequence[Device]:
    return await world.devices()


def _require_off(vm: Vm) -> None:
    """:raise Refusal: its machine is there, or is written down with what it has."""
    if vm.face not in (Face.STOPPED, Face.FAILED):
        raise errors.conflict("VM must be powered off")


async def _create(call: Call, values: dict[str, Any]) -> Made:
    if (kind := values.pop("type")) != "tpm":
        raise invalid_field("type", f"'{kind}' is not given to VMs here, only 'tpm' is")
    if values.pop("resource_group", None) is not None:
        raise errors.unset("resource_group")
    vm = await vm_of(call, values.pop("machine"))
    async with call.locks.of(vm.row.name):
        _require_off(vm)
        if values.pop("count", 1) != 1:
            raise _MORE
        row = await add(call, vm, values)
        return Made(row.key, {"uuid": Device(row, vm).uuid})


async def add(call: Call, vm: Vm, values: dict[str, Any], *, instead: bool = False) -> Row:
    """Give a VM that is off a TPM which remembers nothing, `instead` of one that it has. :raise Refusal: it has one."""
    assert vm.instance is not None
    tpm = Tpm(mint(), values.get("enabled", True))
    data = {**values, "name": values.get("name") or "device_0", "created": call.now, "modified": call.now}
    data = {name: value for name, value in data.items() if name not in ("enabled", "count")}

    def shape(spec: Spec) -> Reshape:
        if spec.tpm.id and not instead:
            raise _MORE
        return Reshape(tpm=tpm)

    await call.core.shapes.reshape(call.principal, vm.instance.id, shape)
    row = Row(DIALECT, KIND, f"{vm.row.name}/{tpm.id}", vm.project, vm.row.name, json.dumps(data))
    return (await call.core.rows.add(call.principal, [row], Action.INSTANCE_ALTER))[0]


async def _become(call: Call, device: Device, tpm: Tpm) -> None:
    """What its VM is to have in its place. :raise Refusal: it is not there any more."""
    assert device.vm.instance is not None
    was = device.vm.instance.spec.then.tpm.id

    def shape(spec: Spec) -> Reshape:
        if spec.tpm.id != was:
            raise errors.missing(f"{KIND}/{device.key}")
        return Reshape(tpm=tpm)

    await call.core.shapes.reshape(call.principal, device.vm.instance.id, shape)


async def _change(call: Call, device: Device, values: dict[str, Any]) -> None:
    for name, now in (("machine", device.vm.machine), ("type", "tpm"), ("resource_group", None), ("count", 1)):
        if values.pop(name, now) != now:
            raise invalid_field(name, "cannot be changed")
    async with call.locks.of(device.vm.row.name):
        assert device.vm.instance is not None
        enabled = values.pop("enabled", device.enabled)
        if enabled != device.enabled:
            _require_off(device.vm)
            tpm = replace(device.vm.instance.spec.then.tpm, enabled=enabled)
            await _become(call, device, tpm)
        row = replace(device.row, data=json.dumps({**device.kept, **values, "modified": call.now}))
        await call.core.rows.save(call.principal, [row], Action.INSTANCE_ALTER)


async def _remove(call: Call, device: Device) -> None:
    async with call.locks.of(device.vm.row.name):
        _require_off(device.vm)
        await _become(call, device, Tpm())
        await call.core.rows.remove(call.principal, [device.row], Action.INSTANCE_ALTER)


RESOURCES = (
    Resource(TABLE, _load, _create, _change, _remove, of_vm=True),
    Resource(STATUS, _load, of_vm=True),
)
