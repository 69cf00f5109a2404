"""`machines` and what is known of one that runs: its status, what it takes, its console (vergeos.md §2.3 to §2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Resource
from polyvisor.dialects.vergeos.sources import Machine, Vm
from polyvisor.dialects.vergeos.tables.declare import constant, key, told, words
from polyvisor.dialects.vergeos.world import World
from polyvisor.engine.instances import Until
from polyvisor.model.units import MIB

_STATUSES = words(
    "initializing", "starting", "running", "stopping", "unresponsive", "stopped", "hibernated", "hibernating",
    "initmigrate", "startmigrate", "migrating", "migratecomplete", "importing", "maintenance", "leavingmaintenance",
    "unlicensed", "needsrefresh", "needsrestart", "waitingforresources", "error", "driversreloading",
)  # fmt: skip


_STATES = words("online", "offline", "warning", "error")


def _of_vm(name: str, default: object = None) -> Any:
    return lambda machine: machine.vm.kept.get(name, default) if machine.vm is not None else default


def _cores(machine: Machine) -> int:
    if machine.vm is not None:
        return machine.vm.now[0]
    return machine.report.cpus if machine.report is not None else 0


def _ram(machine: Machine) -> int:
    if machine.vm is not None:
        return machine.vm.now[1]
    return machine.report.memory // MIB if machine.report is not None else 0


def _info(machine: Machine) -> str:
    if machine.vm is None or machine.vm.instance is None:
        return ""
    if machine.vm.face.value == "paused":
        return "paused"
    return machine.vm.instance.observed.fault if machine.vm.face.value in ("failed", "lost") else ""


def _guest(machine: Machine) -> object:
    """What the guest says of its network, as clients look for an address in it (vergeos.md §1.6)."""
    here = machine.vm.instance if machine.vm is not None else None
    if here is None or not here.observed.ready or here.address is None or not here.spec.network:
        return []
    address = {"ip-address-type": "ipv4", "ip-address": here.address.ip, "prefix": here.address.prefix}
    return {"network": [{"name": "eth0", "hardware-address": here.address.mac, "ip-addresses": [address]}]}


MACHINES = Table(
    "machines",
    (
        key(),
        told("name", Kind.STRING, lambda machine: machine.name, summary=True),
        told("type", Kind.STRING, lambda machine: machine.kind, summary=True),
        told("enabled", Kind.BOOL, _of_vm("enabled", True)),
        told("description", Kind.TEXT, _of_vm("description", "")),
        told("cluster", Kind.FK, lambda machine: machine.cluster, refers="clusters"),
        told("cluster_failover", Kind.FK, _of_vm("cluster_failover"), refers="clusters"),
        told("preferred_node", Kind.FK, _of_vm("preferred_node"), refers="nodes"),
        told("snapshot_profile", Kind.FK, _of_vm("snapshot_profile"), refers="snapshot_profiles"),
        told("ha_group", Kind.STRING, _of_vm("ha_group", "")),
        told("on_power_loss", Kind.STRING, _of_vm("on_power_loss", "last_state")),
        told("cores", Kind.INT, _cores),
        told("ram", Kind.INT, _ram),
    ),
    short=("$key", "name", "type"),
    singles={
        "status": Children("machine_status", "machine"),
        "stats": Children("machine_stats", "machine"),
        "vm": Children("vms", "machine"),
    },
    children={
        "drives": Children("machine_drives", "machine"),
        "nics": Children("machine_nics", "machine"),
        "devices": Children("machine_devices", "machine"),
        "snapshots": Children("machine_snapshots", "machine"),
    },
)  # fmt: skip

STATUS = Table(
    "machine_status",
    (
        key(),
        told("machine", Kind.FK, lambda machine: machine.key, refers="machines"),
        Column("running", Kind.BOOL, lambda machine: machine.runs),
        Column("migratable", Kind.BOOL, lambda machine: True),
        told("node", Kind.FK, lambda machine: machine.node if machine.runs else None, refers="nodes"),
        constant("migrated_node", Kind.FK, None, refers="nodes"),
        constant("migration_destination", Kind.FK, None, refers="nodes"),
        told("started", Kind.TIME, lambda machine: machine.started),
        constant("local_time", Kind.INT, 0),
        Column("status", Kind.CHOICE, lambda machine: machine.status[0], choices=_STATUSES),
        told("status_info", Kind.STRING, _info),
        Column("state", Kind.CHOICE, lambda machine: machine.status[1], choices=_STATES),
        told("powerstate", Kind.BOOL, lambda machine: machine.runs),
        told("last_update", Kind.TIME, lambda machine: machine.seen),
        told("running_cores", Kind.INT, _cores),
        told("running_ram", Kind.INT, _ram),
        told("agent_version", Kind.STRING, lambda machine: "1" if isinstance(_guest(machine), dict) else ""),
        constant("agent_features", Kind.JSON, []),
        told("agent_guest_info", Kind.JSON, _guest),
    ),
    display="status",
    short=("$key", "machine", "running", "status", "state", "powerstate"),
)  # fmt: skip

CONSOLE = Table(
    "machine_console",
    (
        key(),
        told("machine", Kind.FK, lambda vm: vm.machine, refers="machines"),
        constant("host", Kind.STRING, None),
        constant("port", Kind.INT, None),
    ),
    short=("$key", "machine"),
)


async def _machines(world: World) -> Sequence[Machine]:
    return await world.machines()


async def _vms(world: World) -> Sequence[Vm]:
    return await world.vms()


async def _override(call: Call, machine: Machine, values: dict[str, Any]) -> None:
    """The documented way out for a VM that is stuck: said to be stopped, it is ended (vergeos.md §2.4)."""
    stops = values.get("status") in ("stopped",) or values.get("running") is False
    if not stops:
        raise errors.conflict("machine_status: only a machine that is stuck is said to be stopped")
    if machine.vm is None or machine.vm.instance is None:
        raise errors.conflict("machine_status: this machine is no VM")
    asked = await call.core.power.stop(call.principal, machine.vm.instance.id, force=True)
    await call.core.instances.settle(asked, Until.LAUNCHED, 60.0)


RESOURCES = (
    Resource(MACHINES, _machines, of_vm=True),
    Resource(STATUS, _machines, change=_override, of_vm=True),
    Resource(CONSOLE, _vms, of_vm=True),
)
