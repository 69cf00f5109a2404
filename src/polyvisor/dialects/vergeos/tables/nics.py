"""`machine_nics`: a VM's places in networks (vergeos.md §2.7)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Nic, Vm
from polyvisor.dialects.vergeos.tables.declare import kept, key, told, words
from polyvisor.dialects.vergeos.tables.drives import vm_of
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.foreign import Row
from polyvisor.model.ids import mint
from polyvisor.model.principal import Action
from polyvisor.model.spec import MAX_BRIDGED, Reshape

KIND = "machine_nics"
_INTERFACES = words("virtio", "e1000", "e1000e", "rtl8139", "pcnet", "igb", "vmxnet3", "direct")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
NONE = "-"
"""What a NIC keeps as its network when it is in none; the default one is the empty word, as our specs have it."""


TABLE = Table(
    KIND,
    (
        key(),
        told("id", Kind.STRING, lambda nic: str(nic.key), hidden=True),
        Column("machine", Kind.FK, lambda nic: nic.vm.machine, refers="machines", required=True, summary=True),
        kept("name", Kind.STRING, longest=128, summary=True),
        Column("orderid", Kind.INT, lambda nic: nic.kept.get("orderid", nic.place), low=0, high=30),
        kept("interface", Kind.CHOICE, "virtio", choices=_INTERFACES, summary=True),
        kept("driver", Kind.STRING, longest=128, hidden=True),
        kept("model", Kind.STRING, longest=128, hidden=True),
        kept("vendor", Kind.STRING, longest=128, hidden=True),
        kept("port", Kind.INT, hidden=True),
        kept("description", Kind.TEXT, longest=2048),
        kept("enabled", Kind.BOOL, True),
        Column("vnet", Kind.FK, lambda nic: nic.vnet, refers="vnets", summary=True),
        Column("macaddress", Kind.STRING, lambda nic: nic.mac, summary=True),
        told("ipaddress", Kind.STRING, lambda nic: nic.ip),
        kept("asset", Kind.STRING, longest=128),
        kept("disable_mq", Kind.BOOL, hidden=True),
        told("device", Kind.FK, lambda nic: None, refers="machine_devices", hidden=True),
    ),
    short=("$key", "name", "machine", "vnet", "macaddress"),
    singles={
        "status": Children("machine_nic_status", "parent_nic"),
        "stats": Children("machine_nic_stats", "parent_nic"),
    },
)

STATUS = Table(
    "machine_nic_status",
    (
        key(),
        told("parent_nic", Kind.FK, lambda nic: nic.key, refers=KIND),
        told("status", Kind.CHOICE, lambda nic: "up" if nic.online else "down", choices=words("up", "down")),
        told("speed", Kind.INT, lambda nic: 0),
        told("ipaddress", Kind.STRING, lambda nic: nic.ip),
    ),
    display="status",
    short=("$key", "parent_nic", "status"),
)  # fmt: skip


async def _load(world: World) -> Sequence[Nic]:
    return await world.nics()


async def _net(call: Call, key: object) -> str:
    """What a NIC of that network keeps. :raise Refusal: there is no such network."""
    if key is None:
        return NONE
    for net in await call.world.nets():
        if net.key == key:
            return net.host_nic
    raise errors.unset("vnet")


def _mac(given: str) -> str:
    word = given.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(word) or int(word[:2], 16) & 1:
        raise invalid_field("macaddress", "is not the hardware address of one NIC")
    return word


async def _create(call: Call, values: dict[str, Any]) -> Made:
    vm = await vm_of(call, values.pop("machine"))
    async with call.locks.of(vm.row.name):
        told = {**values, "net": await _net(call, values.pop("vnet", None))}
        told.pop("vnet", None)
        return Made((await add(call, vm, [told]))[0].key)


async def add(call: Call, vm: Vm, some: Sequence[dict[str, Any]]) -> Sequence[Row]:
    """Give a VM NICs: it has them from its next start on."""
    there = [nic for nic in await call.world.nics() if nic.vm.key == vm.key]
    rows: list[Row] = []
    for one in some:
        place = len(there) + len(rows)
        one["name"] = one.get("name") or f"nic_{place}"
        one.setdefault("orderid", place)
        if mac := one.pop("macaddress", ""):
            one["mac"] = await _free_mac(call, _mac(mac))
        rows.append(Row(DIALECT, KIND, f"{vm.row.name}/{mint()}", vm.project, vm.row.name, json.dumps(one)))
    await _apply(call, vm, [*(nic.kept for nic in there), *some])
    return await call.core.rows.add(call.principal, rows, Action.INSTANCE_ALTER)


async def _free_mac(call: Call, mac: str, but: Nic | None = None) -> str:
    for nic in await call.world.whole().nics():
        if nic.mac == mac and (but is None or nic.key != but.key):
            raise Refusal(422, "This MAC address is already in use")
    return mac


async def _apply(call: Call, vm: Vm, nics: Sequence[dict[str, Any]]) -> None:
    """What the machine is to have. :raise Refusal: it cannot have that many."""
    assert vm.instance is not None
    used = [one for one in nics if one.get("enabled", True) and one.get("net", NONE) != NONE]
    default = [one for one in used if one["net"] == ""]
    bridged = [one for one in used if one["net"] != ""]
    if len(default) > 1:
        raise invalid_field("vnet", "a VM has one NIC on this network at most")
    if len(bridged) > MAX_BRIDGED:
        raise invalid_field("vnet", f"a VM has {MAX_BRIDGED} NICs on networks of the host at most")
    wanted = Reshape(
        network=bool(default), bridged=tuple(one["net"] for one in bridged),
        macs=tuple(str(one.get("mac", "")) for one in [*default, *bridged]),
    )  # fmt: skip
    now = vm.instance.spec.then
    if (now.network, now.bridged, now.macs) != (wanted.network, wanted.bridged, wanted.macs):
        await call.core.shapes.reshape(call.principal, vm.instance.id, lambda _: wanted)


async def _change(call: Call, nic: Nic, values: dict[str, Any]) -> None:
    async with call.locks.of(nic.vm.row.name):
        await change(call, nic, values)


async def change(call: Call, nic: Nic, values: dict[str, Any]) -> None:
    """As a PUT: what needs another machine is there at the next start."""
    if values.get("machine", nic.vm.machine) != nic.vm.machine:
        raise invalid_field("machine", "cannot be changed")
    told = {**nic.kept, **{name: value for name, value in values.items() if name not in ("vnet", "macaddress")}}
    if "vnet" in values:
        told["net"] = await _net(call, values["vnet"])
    if values.get("macaddress"):
        told["mac"] = await _free_mac(call, _mac(values["macaddress"]), nic)
    others = [one for one in await call.world.nics() if one.vm.key == nic.vm.key]
    await _apply(call, nic.vm, [told if one.key == nic.key else one.kept for one in others])
    await call.core.rows.save(call.principal, [replace(nic.row, data=json.dumps(told))], Action.INSTANCE_ALTER)


async def _remove(call: Call, nic: Nic) -> None:
    async with call.locks.of(nic.vm.row.name):
        if nic.online:
            raise errors.conflict("Unable to delete online NIC")
        others = [one for one in await call.world.nics() if one.vm.key == nic.vm.key and one.key != nic.key]
        await _apply(call, nic.vm, [one.kept for one in others])
        await call.core.rows.remove(call.principal, [nic.row], Action.INSTANCE_ALTER)


RESOURCES = (
    Resource(TABLE, _load, _create, _change, _remove, of_vm=True),
    Resource(STATUS, _load, of_vm=True),
)
