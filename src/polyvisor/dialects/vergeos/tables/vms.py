"""`vms`: instances, and the hidden ones that stand for snapshots (vergeos.md §2.1)."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

from polyvisor.dialects.kit.names import named
from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field, read_only
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Vm, seconds
from polyvisor.dialects.vergeos.tables import cloudinit, profiles
from polyvisor.dialects.vergeos.tables.declare import kept, key, numbered, told, words
from polyvisor.engine.instances import Until
from polyvisor.model.faults import Exists, Invalid, NotFound
from polyvisor.model.foreign import Foreign
from polyvisor.model.ids import InstanceId, machine_uuid
from polyvisor.model.instance import Power
from polyvisor.model.principal import Action
from polyvisor.model.request import Create
from polyvisor.model.spec import Display, Firmware, Reshape, Spec
from polyvisor.model.units import MIB, Bytes, Seconds

TAKEN = "This name is already in use"
SETTLE = 60.0  # seconds that a request waits for what it asked at most
GRACE = Seconds(120.0)  # a guest that is asked to reboot has as long; the guide says so (seed, "Timeouts")
_VERSIONS = [f"{major}.{minor}" for major, last in ((2, 12), (3, 1), (4, 2), (5, 2), (6, 2), (7, 2), (8, 2), (9, 2))
             for minor in range(7 if major == 2 else 0, last + 1)] + ["10.0"]  # fmt: skip
MACHINE_TYPES = {
    **words(pc="PC (default)", q35="Q35 (default)", yottabyte="VergeOS"),
    **numbered("pc-i440fx-", _VERSIONS, "PC"),
    **numbered("pc-q35-", _VERSIONS, "Q35"),
}
_CPUS = words(
    "host", "qemu64", "qemu32", "kvm64", "kvm32", "max", "Broadwell", "Cascadelake-Server", "Conroe", "Cooperlake",
    "Denverton", "Dhyana", "EPYC", "EPYC-Genoa", "EPYC-Milan", "EPYC-Rome", "Haswell", "Icelake-Server", "IvyBridge",
    "Nehalem", "Opteron_G1", "Opteron_G2", "Opteron_G3", "Opteron_G4", "Opteron_G5", "Penryn", "SandyBridge",
    "SapphireRapids", "Skylake-Client", "Skylake-Server", "Snowridge", "Westmere",
)  # fmt: skip
_DISPLAY = (Display("console", 1280, 800),)


def _spec(vm: Vm) -> Spec | None:
    return None if vm.instance is None else vm.instance.spec


def _created(vm: Vm) -> int:
    if vm.instance is not None:
        return seconds(vm.instance.created)
    return vm.snap.created if vm.snap is not None else 0


def _uuid(vm: Vm) -> str:
    return machine_uuid(vm.instance.id) if vm.instance is not None else ""


def _arg(name: str, kind: Kind, default: object = None, **more: Any) -> Column:
    """What is written here and read through the machine."""
    return Column(name, kind, lambda vm: vm.kept.get(name, default), arg=True, **more)


COLUMNS = (
    key(),
    Column("name", Kind.STRING, lambda vm: vm.name, required=True, shortest=1, longest=128, forbidden='"',
           summary=True),
    kept("description", Kind.TEXT, longest=2048, summary=True),
    kept("enabled", Kind.BOOL, True, summary=True),
    told("machine", Kind.FK, lambda vm: vm.machine, refers="machines", summary=True),
    told("uuid", Kind.STRING, _uuid),
    told("is_snapshot", Kind.BOOL, lambda vm: vm.snap is not None, summary=True),
    told("owner", Kind.REF, lambda vm: None, refers="vms", hidden=True),
    told("owner_user", Kind.FK, lambda vm: None, refers="users", hidden=True),
    told("creator", Kind.STRING, lambda vm: vm.kept.get("creator", "")),
    told("created", Kind.TIME, lambda vm: _created(vm)),
    told("modified", Kind.TIME, lambda vm: vm.kept.get("modified") or _created(vm)),
    kept("machine_type", Kind.CHOICE, "pc-q35-10.0", choices=MACHINE_TYPES,
         aliases={"q35": "pc-q35-10.0", "pc": "pc-i440fx-10.0"}),
    kept("allow_hotplug", Kind.BOOL, True),
    kept("disable_powercycle", Kind.BOOL, hidden=True),
    kept("guest_agent", Kind.BOOL),
    Column("cpu_cores", Kind.INT, lambda vm: vm.shape[0], default=1, low=1, high=1024, summary=True),
    kept("cpu_type", Kind.CHOICE, "host", choices=_CPUS),
    Column("ram", Kind.INT, lambda vm: vm.shape[1], default=1024, low=256, high=1048576, summary=True),
    kept("console", Kind.CHOICE, "vnc", choices=words("vnc", "spice", "serial", "none")),
    kept("video", Kind.CHOICE, "std", choices=words("std", "cirrus", "vmware", "qxl", "virtio", "none")),
    kept("sound", Kind.CHOICE, "none",
         choices=words("none", "sb16", "es1370", "ac97", "adlib", "gus", "cs4231a", "hda", "pcspk")),
    kept("os_family", Kind.CHOICE, "linux", choices=words("linux", "windows", "freebsd", "other"), summary=True),
    kept("os_description", Kind.STRING, longest=1024, hidden=True),
    kept("rtc_base", Kind.CHOICE, "utc", choices=words("utc", "localtime")),
    kept("boot_order", Kind.CHOICE, "cd", choices=words("cd", "cdn", "dc", "nc", "n", "c", "d", "strict")),
    kept("console_pass_enabled", Kind.BOOL),
    kept("usb_tablet", Kind.BOOL, True),
    Column("uefi", Kind.BOOL, lambda vm: vm.shape[2], default=False),
    kept("secure_boot", Kind.BOOL),
    kept("serial_port", Kind.BOOL),
    kept("boot_delay", Kind.INT, 5, low=0, high=60),
    told("need_restart", Kind.BOOL, lambda vm: vm.runs and (spec := _spec(vm)) is not None and spec.later is not None),
    told("console_status", Kind.FK, lambda vm: vm.key, refers="machine_console"),
    kept("cloudinit_datasource", Kind.CHOICE, "none", choices=words("none", "config_drive_v2", "nocloud")),
    told("imported", Kind.BOOL, lambda vm: bool(vm.kept.get("imported"))),
    kept("created_from", Kind.CHOICE, "custom", choices=words(
        "custom", "clone", "import", "import_vmx", "import_ovf", "import_vmware", "import_shared", "recipe",
        "terraform")),
    kept("migration_method", Kind.CHOICE, "auto", choices=words("auto", "live")),
    kept("note", Kind.TEXT, longest=1024),
    kept("power_cycle_timeout", Kind.INT, low=0, high=65535),
    kept("allow_export", Kind.BOOL, True),
    kept("nested_virtualization", Kind.BOOL),
    kept("disable_hypervisor", Kind.BOOL),
    kept("usb_legacy", Kind.BOOL),
    kept("iommu", Kind.BOOL, hidden=True),
    kept("advanced", Kind.TEXT, longest=65536, hidden=True),
    kept("meta", Kind.JSON, hidden=True),
    told("powerstate", Kind.BOOL, lambda vm: None, hidden=True),
    told("running", Kind.BOOL, lambda vm: None, hidden=True),
    told("id", Kind.STRING, lambda vm: str(vm.key), hidden=True),
    _arg("cluster", Kind.FK, refers="clusters"),
    _arg("cluster_failover", Kind.FK, refers="clusters"),
    _arg("preferred_node", Kind.FK, refers="nodes"),
    _arg("snapshot_profile", Kind.FK, refers="snapshot_profiles"),
    _arg("ha_group", Kind.STRING, longest=128),
    _arg("on_power_loss", Kind.CHOICE, "last_state", choices=words("power_on", "last_state", "leave_off")),
    Column("cloudinit_files", Kind.JSON, lambda vm: None, arg=True),
)  # fmt: skip

TABLE = Table(
    "vms", COLUMNS, short=("$key", "name", "machine", "is_snapshot"),
    views={
        "dashboard": "all,$key,machine[all,status[all,agent_guest_info],drives[all],nics[all]]",
    },
    children={
        "cloudinit_files_list": Children("cloudinit_files", "owner"),
        "members": Children("tag_members", "member"),
    },
)  # fmt: skip
_ENGINES = frozenset({"name", "cpu_cores", "ram", "uefi", "cloudinit_files"})
"""What is not merely kept."""


# -- a new one ---------------------------------------------------------------------------------------------------------


def wanted(values: dict[str, Any], *, creator: str, now: int) -> Create:
    """The instance that a VM of these values is: off, with nothing in it. :raise Invalid:"""
    rest = {name: value for name, value in values.items() if name not in _ENGINES}
    remember = {**rest, "creator": creator, "modified": now, "managed": True}
    name, foreign = named(DIALECT, values["name"], "vm", **remember)
    after = values.get("on_power_loss", "last_state")
    return Create(
        blank=True, parked=True, name=name, vcpus=values["cpu_cores"], memory=Bytes(values["ram"] * MIB),
        firmware=Firmware.UEFI if values["uefi"] else Firmware.BIOS, network=False, power=Power.OFF, grace=GRACE,
        autostart=after != "leave_off", resting=after == "last_state",
        displays=() if values["video"] == "none" else _DISPLAY, foreign=foreign,
    )  # fmt: skip


async def make(call: Call, values: dict[str, Any]) -> Vm:
    """A new VM without drives or NICs. :raise Refusal: the name is taken, a reference leads nowhere."""
    await _check_references(call, values)
    async with call.locks.of("names"):
        await check_name(call, values["name"])
        try:
            asked = await call.core.instances.create(
                call.principal, wanted(values, creator=call.principal.name, now=call.now)
            )
        except Exists as error:
            raise Refusal(422, TAKEN) from error
        except Invalid as error:
            raise _in_our_words(error) from error
    await call.core.instances.settle(asked, Until.LAUNCHED, SETTLE)
    call.world.forget()
    return (await call.world.about([asked.instance.id]).live())[0]


async def check_name(call: Call, name: str, but: Vm | None = None) -> None:
    """:raise Refusal: another VM that the caller sees is called that."""
    if any(but is None or vm.key != but.key for vm in await call.world.called(name)):
        raise Refusal(422, TAKEN)


async def _check_references(call: Call, values: dict[str, Any]) -> None:
    here = {"cluster": await call.world.cluster(), "cluster_failover": await call.world.cluster()}
    here["preferred_node"] = (await call.world.node()).key
    for field, known in here.items():
        if values.get(field) not in (None, known):
            raise errors.unset(field)
    profile = values.get("snapshot_profile")
    if profile is not None and all(one.key != profile for one in await profiles.seen(call.world)):
        raise errors.unset("snapshot_profile")


def _in_our_words(error: Invalid) -> Refusal:
    fields = {"vcpus": "cpu_cores", "memory": "ram"}
    if error.field in fields:
        return invalid_field(fields[error.field], error.public.partition(": ")[2] or error.public)
    return Refusal(422, error.public)


async def _create(call: Call, values: dict[str, Any]) -> Made:
    files = cloudinit.check_inline(values.get("cloudinit_files"))
    vm = await make(call, values)
    if files:
        await cloudinit.add(call.about(InstanceId(vm.row.name)), vm, files)
    return Made(vm.key, {"machine": str(vm.machine)})


# -- changed and removed -----------------------------------------------------------------------------------------------


async def _change(call: Call, vm: Vm, values: dict[str, Any]) -> None:
    if vm.instance is None:
        raise read_only(next(iter(values), "vm"))
    await _check_references(call, values)
    async with call.locks.of(vm.row.name):
        renamed = "name" in values and values["name"] != vm.name
        if renamed:
            await check_name(call, values["name"], vm)
        await _reshape(call, vm, values)
        if renamed:
            await _rename(call, vm, values["name"])
        rest = {name: value for name, value in values.items() if name not in _ENGINES}
        if rest or values:
            kept = {**vm.kept, **rest, "modified": call.now}
            if "name" in values:
                kept = {**kept, "name": values["name"]}
            await call.core.rows.save(call.principal, [replace(vm.row, data=json.dumps(kept))], Action.INSTANCE_ALTER)
    if "cloudinit_datasource" in values:
        call.world.forget()
        await cloudinit.apply(call, next(one for one in await call.world.live() if one.key == vm.key))


async def _rename(call: Call, vm: Vm, name: str) -> None:
    assert vm.instance is not None
    ours, foreign = named(DIALECT, name, "vm")
    try:
        await call.core.instances.update(call.principal, vm.instance.id, name=ours or vm.instance.id)
        await call.core.foreigners.put(vm.project, vm.instance.id, foreign or Foreign(DIALECT, alias=("vm", "")))
    except Exists as error:
        raise Refusal(422, TAKEN) from error


async def _reshape(call: Call, vm: Vm, values: dict[str, Any]) -> None:
    """What a start gives it; of a running one it is kept until then (vergeos.md §3.6)."""
    assert vm.instance is not None
    changes: dict[str, Any] = {}
    if "cpu_cores" in values and values["cpu_cores"] != vm.shape[0]:
        changes["vcpus"] = values["cpu_cores"]
    if "ram" in values and values["ram"] != vm.shape[1]:
        changes["memory"] = Bytes(values["ram"] * MIB)
    if "uefi" in values and values["uefi"] != vm.shape[2]:
        changes["firmware"] = Firmware.UEFI if values["uefi"] else Firmware.BIOS
    if "video" in values and values["video"] != vm.kept.get("video", "std") and vm.kept.get("managed"):
        changes["displays"] = () if values["video"] == "none" else _DISPLAY
    if "on_power_loss" in values:
        changes["autostart"] = values["on_power_loss"] != "leave_off"
    if changes:
        try:
            await call.core.shapes.reshape(call.principal, vm.instance.id, lambda _: Reshape(**changes))
        except Invalid as error:
            raise _in_our_words(error) from error


async def _remove(call: Call, vm: Vm) -> None:
    """With all that is its own: drives, NICs, snapshots (vergeos.md §3.8)."""
    if vm.instance is None:
        raise errors.conflict("The snapshot is removed through machine_snapshots")
    if vm.runs or vm.face.value in ("creating", "starting"):
        raise errors.conflict("VM must be powered off")
    async with call.locks.of(vm.row.name):
        await dispose(call, vm)


async def dispose(call: Call, vm: Vm) -> None:
    """Remove a VM that is off, then what was its own."""
    assert vm.instance is not None
    volumes = [
        drive.volume for drive in await call.world.all_drives() if drive.vm.key == vm.key and drive.kept.get("owned")
    ]
    copies = [id for snap in await call.world.snaps() if snap.row.subject == vm.row.name for id in copies_of(snap.kept)]
    engines = [snap.kept["engine"] for snap in await call.world.snaps()
               if snap.row.subject == vm.row.name and snap.kept.get("engine")]  # fmt: skip
    with contextlib.suppress(NotFound):  # an earlier server may have begun with it; what was its own goes all the same
        asked = await call.core.power.delete(call.principal, vm.instance.id, force=False)
        await call.core.instances.settle(asked, Until.LAUNCHED, SETTLE)
    for id in [*(volume.id for volume in volumes if volume is not None), *copies]:
        with contextlib.suppress(NotFound):
            await call.core.volumes.delete(call.principal, id)
    for id in engines:
        with contextlib.suppress(NotFound):
            await call.core.snapshots.delete(call.principal, id)
    call.world.forget()


def copies_of(kept: dict[str, Any]) -> list[str]:
    """The volumes that a snapshot keeps."""
    return [str(drive["copy"]) for drive in kept.get("drives", ()) if drive.get("copy")]


RESOURCE = Resource(TABLE, lambda world: world.vms(), _create, _change, _remove, of_vm=True)
