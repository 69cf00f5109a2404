"""This host as `system`, `nodes` and `clusters`, its networks and its storage (vergeos.md §2.13 to §2.15)."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.directory import groups, people
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, not_in_list
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource, nothing
from polyvisor.dialects.vergeos.sources import Net, Node
from polyvisor.dialects.vergeos.tables.declare import constant, key, told, words
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.units import MIB

VERSION = "26.1.8"
"""The version whose API this is."""
_CONNECTIONS = 2048


async def _nodes(world: World) -> Sequence[Node]:
    return [await world.node()]


async def _nets(world: World) -> Sequence[Net]:
    return await world.nets()


def _ram(node: Node) -> int:
    return node.report.memory // MIB


SYSTEM = Table(
    "system",
    (
        key(lambda node: 1),
        constant("yb_version", Kind.STRING, VERSION),
        constant("os_version", Kind.STRING, VERSION),
        told("cloud_name", Kind.STRING, lambda node: socket.gethostname()),
        constant("name", Kind.STRING, "v4"),
        constant("branch", Kind.STRING, "stable"),
    ),
    display="cloud_name",
    short=("$key", "yb_version", "os_version", "cloud_name"),
)

NODES = Table(
    "nodes",
    (
        key(),
        told("id", Kind.STRING, lambda node: str(node.key), hidden=True),
        constant("name", Kind.STRING, "node1"),
        told("description", Kind.TEXT, lambda node: socket.gethostname()),
        told("model", Kind.STRING, lambda node: f"{node.report.hypervisor} {node.report.version}"),
        told("cpu", Kind.STRING, lambda node: node.report.accelerator),
        constant("cpu_speed", Kind.INT, 0),
        told("ram", Kind.INT, _ram),
        told("vm_ram", Kind.INT, _ram),
        constant("overcommit", Kind.INT, 0),
        constant("failover_ram", Kind.INT, 0),
        told("cores", Kind.INT, lambda node: node.report.cpus),
        constant("physical", Kind.BOOL, True),
        constant("maintenance", Kind.BOOL, False),
        constant("iommu", Kind.BOOL, False),
        constant("need_restart", Kind.BOOL, False),
        constant("restart_reason", Kind.STRING, ""),
        constant("asset_tag", Kind.STRING, ""),
        constant("ipmi_address", Kind.STRING, ""),
        constant("ipmi_status", Kind.STRING, ""),
        constant("vsan_nodeid", Kind.INT, 0),
        constant("vsan_connected", Kind.BOOL, False),
        constant("yb_version", Kind.STRING, VERSION),
        constant("os_version", Kind.STRING, VERSION),
        told("kernel_version", Kind.STRING, lambda node: node.facts.get("kernel", "")),
        constant("appserver_version", Kind.STRING, VERSION),
        constant("vsan_version", Kind.STRING, ""),
        told("qemu_version", Kind.STRING, lambda node: node.report.version),
        told("cluster", Kind.FK, lambda node: node.cluster, refers="clusters"),
        told("machine", Kind.FK, lambda node: node.machine, refers="machines"),
        constant("running", Kind.BOOL, True, hidden=True),
    ),
    short=("$key", "name", "cluster", "machine"),
    key_in_all=False,
)  # fmt: skip

CLUSTERS = Table(
    "clusters",
    (
        key(lambda node: node.cluster),
        constant("name", Kind.STRING, "cluster1"),
        constant("description", Kind.TEXT, ""),
        constant("enabled", Kind.BOOL, True),
        constant("storage", Kind.BOOL, True),
        constant("compute", Kind.BOOL, True),
        constant("default_cpu", Kind.STRING, "host"),
        constant("recommended_cpu_type", Kind.STRING, "host"),
        constant("kvm_nested", Kind.BOOL, False),
        constant("ram_per_unit", Kind.INT, 0),
        constant("cores_per_unit", Kind.INT, 0),
        told("max_ram_per_vm", Kind.INT, _ram),
        told("max_cores_per_vm", Kind.INT, lambda node: min(256, node.report.cpus * 64)),
        constant("target_ram_pct", Kind.INT, 80),
        constant("ram_overcommit_pct", Kind.INT, 50),
        constant("created", Kind.TIME, 0),
    ),
    short=("$key", "name"),
    singles={"status": Children("cluster_status", "cluster")},
    children={"nodes": Children("nodes", "cluster")},
)

CLUSTER_STATUS = Table(
    "cluster_status",
    (
        key(lambda node: node.cluster),
        told("cluster", Kind.FK, lambda node: node.cluster, refers="clusters"),
        told("status", Kind.STRING, lambda node: "online" if node.report.ok else "error"),
        told("status_info", Kind.STRING, lambda node: node.report.trouble),
        told("state", Kind.STRING, lambda node: "online" if node.report.ok else "error"),
        constant("total_nodes", Kind.INT, 1),
        constant("online_nodes", Kind.INT, 1),
        told("total_ram", Kind.INT, _ram),
        told("online_ram", Kind.INT, _ram),
        told("used_ram", Kind.INT, lambda node: node.used_memory // MIB),
        told("phys_ram_used", Kind.INT, lambda node: node.used_memory // MIB),
        constant("phys_vram_used", Kind.INT, 0),
        told("total_cores", Kind.INT, lambda node: node.report.cpus),
        told("online_cores", Kind.INT, lambda node: node.report.cpus),
        told("used_cores", Kind.INT, lambda node: node.used_vcpus),
        constant("phys_total_cpu", Kind.INT, 0),
        told("running_machines", Kind.INT, lambda node: node.running),
        told("last_update", Kind.TIME, lambda node: node.seen),
    ),
    display="status",
    short=("$key", "cluster", "status", "state"),
)

VNETS = Table(
    "vnets",
    (
        key(),
        told("id", Kind.STRING, lambda net: str(net.key), hidden=True),
        told("name", Kind.STRING, lambda net: net.name),
        told("description", Kind.TEXT, lambda net: net.description),
        constant("enabled", Kind.BOOL, True),
        told("type", Kind.CHOICE, lambda net: net.kind, choices=words("internal", "external", "core", "dmz")),
        constant("layer2_type", Kind.STRING, "none"),
        constant("layer2_id", Kind.INT, 0),
        told("network", Kind.STRING, lambda net: net.subnet),
        told("ipaddress", Kind.STRING, lambda net: net.gateway),
        told("gateway", Kind.STRING, lambda net: net.gateway),
        constant("mtu", Kind.INT, 1500),
        told("dhcp_enabled", Kind.BOOL, lambda net: net.kind == "internal"),
        constant("dhcp_start", Kind.STRING, ""),
        constant("dhcp_stop", Kind.STRING, ""),
        told("dns", Kind.STRING, lambda net: "simple" if net.kind == "internal" else "disabled"),
        constant("domain", Kind.STRING, ""),
        constant("need_fw_apply", Kind.BOOL, False),
        constant("need_dns_apply", Kind.BOOL, False),
        constant("need_proxy_apply", Kind.BOOL, False),
        constant("need_restart", Kind.BOOL, False),
        constant("on_power_loss", Kind.STRING, "power_on"),
        constant("interface_vnet", Kind.FK, None, refers="vnets"),
        constant("proxy_enabled", Kind.BOOL, False),
        told("machine", Kind.FK, lambda net: net.machine, refers="machines"),
    ),
    short=("$key", "name", "type"),
    children={"nics": Children("machine_nics", "vnet")},
)  # fmt: skip


async def _act(call: Call, values: dict[str, Any]) -> Made:
    """The networks are the host's: they are there for as long as it is."""
    action = values["action"]
    if action not in ("poweron", "poweroff", "kill", "killpower", "reset", "refresh", "apply"):
        raise not_in_list("action", action)
    net = next((one for one in await call.world.nets() if one.key == values["vnet"]), None)
    if net is None:
        raise Refusal(404, f"Resource '/v4/vnets/{values['vnet']}' not found during post")
    if action in ("poweron", "refresh", "apply"):
        return Made(None)  # it runs, and its rules are what they are
    raise errors.conflict(f"vNet {net.name} belongs to the host and stays on")


VNET_ACTIONS = Table(
    "vnet_actions",
    (
        key(lambda source: 0),
        Column("vnet", Kind.FK, lambda source: None, refers="vnets", required=True),
        Column("action", Kind.STRING, lambda source: None, required=True, longest=64),
        Column("params", Kind.JSON, lambda source: None),
    ),
)

STORAGE_TIERS = Table(
    "storage_tiers",
    (
        key(lambda tier: tier["tier"]),
        told("tier", Kind.INT, lambda tier: tier["tier"]),
        told("name", Kind.STRING, lambda tier: f"Tier {tier['tier']}"),
        told("description", Kind.TEXT, lambda tier: tier["name"]),
        told("capacity", Kind.INT, lambda tier: tier["total"]),
        told("used", Kind.INT, lambda tier: tier["total"] - tier["free"]),
        told("allocated", Kind.INT, lambda tier: tier["total"] - tier["free"]),
        told("used_pct", Kind.INT, lambda tier: 100 * (tier["total"] - tier["free"]) // max(1, tier["total"])),
        constant("dedupe_ratio", Kind.INT, 100),
        constant("stats", Kind.JSON, {}, hidden=True),
    ),
    display="tier",
    short=("$key", "tier", "capacity", "used"),
    key_in_all=False,
)


async def _tiers(world: World) -> Sequence[Mapping[str, Any]]:
    """Tier 1 is where volumes are unless they are told otherwise."""
    first = (await world.core.pools.list(world.principal))[:1]
    return [{"tier": 1, "name": one.name, "free": one.free, "total": one.total} for one in first]


SETTINGS = Table(
    "settings",
    (
        key(lambda row: row["$key"]),
        told("key", Kind.STRING, lambda row: row["key"]),
        told("value", Kind.STRING, lambda row: row["value"]),
        told("default_value", Kind.STRING, lambda row: row["value"]),
        told("description", Kind.TEXT, lambda row: row["description"]),
        constant("modified", Kind.BOOL, False),
    ),
    display="key",
    short=("$key", "key", "value"),
)


async def _settings(world: World) -> Sequence[Mapping[str, Any]]:
    told = {
        "cloud_name": (socket.gethostname(), "What this installation is called"),
        "max_connections": (str(_CONNECTIONS), "Connections that may wait to be taken"),
        "timezone": ("UTC", "The zone of all times"),
    }
    return [
        {"$key": place, "key": name, "value": value, "description": description}
        for place, (name, (value, description)) in enumerate(told.items(), start=1)
    ]


def _count(name: str) -> Column:
    return told(name, Kind.INT, lambda counts: counts.get(name, 0))


_NOUNS = ("machines", "vnets", "nodes", "clusters", "tenants", "sites", "cluster_tiers", "repos")
DASHBOARD = Table(
    "dashboard",
    (
        key(lambda counts: 1),
        *(_count(f"{noun}_{word}") for noun in _NOUNS for word in ("count", "online", "warn", "error")),
        *(_count(name) for name in ("storage_tiers_count", "users_count", "users_online", "groups_count",
                                    "groups_online", "alarms_count", "alarms_warning", "alarms_error")),
    ),
    display="$key",
    short=("all",),
)  # fmt: skip


async def _dashboard(world: World) -> Sequence[Mapping[str, int]]:
    """How many there are of everything, and how they are; of what one host cannot mean there is none."""
    states = Counter(machine.status[1] for machine in await world.machines() if machine.vm and machine.vm.instance)
    counts = {"machines_count": states.total(), "machines_online": states["online"] + states["warning"]}
    counts |= {"machines_warn": states["warning"], "machines_error": states["error"]}
    nets = len(await world.nets())
    counts |= {"vnets_count": nets, "vnets_online": nets, "storage_tiers_count": len(await _tiers(world))}
    counts |= dict.fromkeys(("nodes_count", "nodes_online", "clusters_count", "clusters_online"), 1)
    seen = await people(world)
    counts |= {"users_count": len(seen), "users_online": sum(not one.user.disabled for one in seen)}
    counts["groups_count"] = counts["groups_online"] = len(await groups(world))
    return [counts]


RESOURCES = (
    Resource(DASHBOARD, _dashboard),
    Resource(SYSTEM, _nodes),
    Resource(NODES, _nodes),
    Resource(CLUSTERS, _nodes),
    Resource(CLUSTER_STATUS, _nodes),
    Resource(VNETS, _nets),
    Resource(VNET_ACTIONS, nothing, _act),
    Resource(STORAGE_TIERS, _tiers),
    Resource(SETTINGS, _settings),
)
