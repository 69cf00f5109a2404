"""A small catalog to ask: virtual machines on machines with a status, drives and snapshots, nodes, groups and tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.tables import Children, Table

Source = dict[str, Any]
VMF = (
    "$key,name,description,enabled,cpu_cores,ram,os_family,guest_agent,uefi,secure_boot,machine_type,created,modified,"
    "is_snapshot,machine,machine#status#node as node_key,machine#cluster as cluster_key,machine#ha_group as ha_group,"
    "cloudinit_datasource,machine#status#running as running,machine#status#status as status,"
    "machine#status#node#name as node_name,machine#cluster#name as cluster_name"
)


def of(name: str) -> Callable[[Source], object]:
    """What a source has of that name."""
    return lambda source: source.get(name)


def column(name: str, kind: Kind, **more: Any) -> Column:
    """A column of what the source has of the same name."""
    return Column(name, kind, of(name), **more)


KEY = column("$key", Kind.KEY, read_only=True)
NAME = column("name", Kind.STRING, required=True, shortest=1, longest=128, forbidden='"')
DASHBOARD = "machine[status[running,agent_guest_info]]"
STATES = {"running": "Running", "stopped": "Stopped", "initializing": "Starting up"}

VMS = Table(
    "vms",
    (
        KEY,
        NAME,
        column("description", Kind.TEXT, longest=2048),
        column("enabled", Kind.BOOL, default=True),
        column("cpu_cores", Kind.INT, default=1, low=1, high=1024, summary=True),
        column("ram", Kind.INT, default=1024, low=256, high=1048576),
        column("os_family", Kind.CHOICE, default="linux", choices={"linux": "Linux", "windows": "Windows"}),
        column("guest_agent", Kind.BOOL, default=False),
        column("uefi", Kind.BOOL, default=False),
        column("secure_boot", Kind.BOOL),
        column(
            "machine_type",
            Kind.CHOICE,
            default="pc-q35-10.0",
            choices={"pc-q35-10.0": "Q35 10.0"},
            aliases={"q35": "pc-q35-10.0"},
        ),
        column("created", Kind.TIME, read_only=True),
        column("modified", Kind.TIME, read_only=True),
        column("is_snapshot", Kind.BOOL, read_only=True),
        column("machine", Kind.FK, refers="machines", read_only=True),
        column("cluster", Kind.FK, refers="clusters", arg=True),
        column("owner", Kind.REF, refers="vms,groups"),
        column("cloudinit_datasource", Kind.CHOICE, choices={"none": "None", "nocloud": "NoCloud"}, default="none"),
        column("expires", Kind.TIME),
        column("secret", Kind.STRING, hidden=True),
        column("advanced", Kind.JSON),
    ),
    children={"tags": Children("tag_members", "member")},
    short=("$key", "name", "machine"),
    views={"dashboard": DASHBOARD, "round": "name,round"},
)
MACHINES = Table(
    "machines",
    (
        KEY,
        NAME,
        column("cluster", Kind.FK, refers="clusters"),
        column("ha_group", Kind.STRING),
    ),
    singles={"status": Children("machine_status", "machine")},
    children={"drives": Children("machine_drives", "machine")},
)
STATUS = Table(
    "machine_status",
    (
        KEY,
        column("machine", Kind.FK, refers="machines"),
        column("node", Kind.FK, refers="nodes"),
        column("running", Kind.BOOL),
        column("status", Kind.CHOICE, choices=STATES),
        column("started", Kind.TIME),
        column("agent_guest_info", Kind.JSON),
    ),
    display="status",
)
DRIVES = Table(
    "machine_drives",
    (
        KEY,
        NAME,
        column("machine", Kind.FK, refers="machines"),
        column("disksize", Kind.INT),
        column("preferred_tier", Kind.TIER, default="3", choices={str(tier): f"Tier {tier}" for tier in range(1, 16)}),
    ),
)
NODES = Table("nodes", (KEY, NAME), key_in_all=False)
CLUSTERS = Table("clusters", (KEY, NAME))
GROUPS = Table("groups", (KEY, NAME), children={"members": Children("members", "parent_group")})
MEMBERS = Table(
    "members", (KEY, NAME, column("parent_group", Kind.FK, refers="groups")), display="parent_group#$display"
)
TAGS = Table("tags", (KEY, NAME))
TAG_MEMBERS = Table(
    "tag_members",
    (KEY, column("tag", Kind.FK, refers="tags"), column("member", Kind.REF, refers="vms,groups")),
    display="tag#name",
)
CATALOG = {
    table.name: table for table in (VMS, MACHINES, STATUS, DRIVES, NODES, CLUSTERS, GROUPS, MEMBERS, TAGS, TAG_MEMBERS)
}


def vm(key: int, name: str, **more: object) -> Source:
    """A virtual machine as its table has it, on the machine of its own."""
    usual = {
        "description": "",
        "enabled": True,
        "cpu_cores": 1,
        "ram": 1024,
        "os_family": "linux",
        "guest_agent": False,
    }
    usual |= {"uefi": False, "secure_boot": False, "machine_type": "pc-q35-10.0", "is_snapshot": False, "cluster": 1}
    usual |= {"owner": None, "cloudinit_datasource": "none", "expires": 0, "secret": "s", "advanced": {}}
    return usual | {"$key": key, "name": name, "created": 1000, "modified": 2000, "machine": key + 12} | more


def stock() -> dict[str, list[Source]]:
    """Two virtual machines, one of them running, and what hangs on them."""
    return {
        "vms": [vm(42, "web"), vm(43, "db", ram=4096, machine=None, owner="vms/42", expires=500)],
        "machines": [{"$key": 54, "name": "web", "cluster": 1, "ha_group": None}],
        "machine_status": [
            {
                "$key": 54,
                "machine": 54,
                "node": 3,
                "running": True,
                "status": "running",
                "started": 5,
                "agent_guest_info": [],
            }
        ],
        "machine_drives": [
            {"$key": 8, "name": "data", "machine": 54, "disksize": 200, "preferred_tier": "10"},
            {"$key": 7, "name": "root", "machine": 54, "disksize": 100, "preferred_tier": "2"},
        ],
        "nodes": [{"$key": 3, "name": "node1"}],
        "clusters": [{"$key": 1, "name": "lab"}],
        "groups": [{"$key": 1, "name": "admins"}, {"$key": 2, "name": "none"}],
        "members": [{"$key": 1, "name": "a", "parent_group": 1}, {"$key": 2, "name": "b", "parent_group": 1}],
        "tags": [{"$key": 4, "name": "blue"}],
        "tag_members": [
            {"$key": 1, "tag": 4, "member": "vms/42"},
            {"$key": 2, "tag": 9, "member": "vms/9"},
            {"$key": 3, "tag": None, "member": None},
        ],
    }
