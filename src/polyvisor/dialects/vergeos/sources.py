"""What rows are made of: an instance or a snapshot as a VM, its machine, its drives and NICs.

A VM has two keys, its own and its machine's; both are numbers of rows of ours, given over all tables, so that one that
is taken for the other is nobody's (vergeos.md §3.1). What only this API knows of a thing is the data of such a row.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from polyvisor.model.face import Face, face
from polyvisor.model.foreign import Row
from polyvisor.model.host import HostReport
from polyvisor.model.ids import ProjectId
from polyvisor.model.instance import Instance, Mount
from polyvisor.model.snapshot import Snapshot
from polyvisor.model.spec import Firmware
from polyvisor.model.units import MIB
from polyvisor.model.volume import Volume

DIALECT = "vergeos"
IMPORTS = "vm_imports"
IMPORT_LOGS = "vm_import_logs"
_DEVICES = uuid.UUID("6c0c7ae5-8d0f-5f0e-9d5b-2b7c5c0c2f11")
COPY = "SNAPSHOT"
"""The kind of a volume that a snapshot keeps."""
_RUNS = frozenset({Face.RUNNING, Face.PAUSING, Face.PAUSED, Face.STOPPING, Face.SUSPENDING, Face.LOST, Face.RESUMING})
STATUSES: Mapping[Face, tuple[str, str]] = {
    Face.CREATING: ("initializing", "offline"),
    Face.STARTING: ("starting", "online"),
    Face.RUNNING: ("running", "online"),
    Face.PAUSING: ("running", "online"),
    Face.PAUSED: ("running", "warning"),
    Face.SUSPENDING: ("hibernating", "online"),
    Face.SUSPENDED: ("hibernated", "offline"),
    Face.RESUMING: ("starting", "online"),
    Face.STOPPING: ("stopping", "online"),
    Face.STOPPED: ("stopped", "offline"),
    Face.DELETING: ("stopping", "offline"),
    Face.FAILED: ("error", "error"),
    Face.LOST: ("unresponsive", "warning"),
}
"""What a machine is said to be, `status` and `state` (vergeos.md §2.4). There is no word for one that is paused."""


def seconds(moment: datetime | None) -> int:
    """Unix seconds; 0: never."""
    return 0 if moment is None else int(moment.timestamp())


def data_of(row: Row) -> dict[str, Any]:
    """What a row keeps."""
    found: dict[str, Any] = json.loads(row.data)
    return found


@dataclass(frozen=True)
class Snap:
    """A snapshot of a VM: a row of this dialect, or a snapshot of the engine's that somebody else took."""

    row: Row
    vm_key: int
    machine: int
    source_machine: int | None
    engine: Snapshot | None = None

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What the row keeps."""
        return data_of(self.row)

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.kept.get("name") or (self.engine.name if self.engine else self.row.name))

    @property
    def created(self) -> int:
        """When it was taken."""
        return int(self.kept.get("created") or (seconds(self.engine.created) if self.engine else 0))


@dataclass(frozen=True)
class Vm:
    """A VM: an instance, or the hidden one that stands for a snapshot and cannot run."""

    key: int
    machine: int
    row: Row
    instance: Instance | None = None
    snap: Snap | None = None

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What only this API knows of it."""
        if self.snap is not None:
            found: dict[str, Any] = self.snap.kept.get("vm", {})
            return found
        return data_of(self.row)

    @property
    def project(self) -> ProjectId:
        """Whose it is."""
        return self.instance.project if self.instance is not None else self.row.project

    @property
    def name(self) -> str:
        """What it is called: our name, unless its id has to stand for one that ours cannot be."""
        if self.instance is None:
            assert self.snap is not None
            return self.snap.name
        here = self.instance
        return str(self.kept.get("name", here.name)) if here.name == here.id else here.name

    @cached_property
    def face(self) -> Face:
        """What it is."""
        return Face.STOPPED if self.instance is None else face(self.instance)

    @property
    def runs(self) -> bool:
        """Whether there is a machine."""
        return self.face in _RUNS

    @cached_property
    def shape(self) -> tuple[int, int, bool]:
        """vCPUs, MB of memory, and whether it has UEFI: as they are to be at its next start."""
        if self.instance is not None:
            spec = self.instance.spec.then
        elif self.snap is not None and self.snap.engine is not None:
            spec = self.snap.engine.spec
        else:
            kept = self.snap.kept["shape"] if self.snap is not None else [1, 1024, False]
            return int(kept[0]), int(kept[1]), bool(kept[2])
        return spec.vcpus, spec.memory // MIB, spec.firmware is Firmware.UEFI

    @property
    def now(self) -> tuple[int, int]:
        """vCPUs and MB of memory of the machine that there is."""
        if self.instance is None:
            return self.shape[:2]
        return self.instance.spec.vcpus, self.instance.spec.memory // MIB


@dataclass(frozen=True)
class Machine:
    """What runs or could run: a VM's, the node's, a network's. `vm` is None for those of the other kinds. `node` and
    `cluster` are the keys of those that it belongs to, `seen` when this was so, in Unix seconds."""

    key: int
    kind: str
    name: str
    node: int
    cluster: int
    seen: int
    vm: Vm | None = None
    runs: bool = True
    started: int = 0
    report: HostReport | None = None

    @property
    def status(self) -> tuple[str, str]:
        """`status` and `state`."""
        if self.vm is not None:
            return STATUSES[self.vm.face]
        return ("running", "online") if self.runs else ("stopped", "offline")


@dataclass(frozen=True)
class OfRow:
    """Something that has a row of this dialect."""

    row: Row

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What only this API knows of it."""
        return data_of(self.row)

    @property
    def key(self) -> int:
        """Its key."""
        return self.row.key


@dataclass(frozen=True)
class Drive(OfRow):
    """A drive of a VM: a volume, a medium of the catalogue, or (`own`) the disk that an image was unpacked to."""

    vm: Vm
    place: int
    own: bool = False
    volume: Volume | None = None
    mount: Mount | None = None
    used: int = 0  # bytes on the host

    @property
    def leaves(self) -> bool:
        """Whether its VM has gone back to what it was without it: whoever finds it takes it away."""
        return bool(self.kept.get("leaving"))

    @property
    def online(self) -> bool:
        """Whether a running machine has it."""
        return self.vm.runs and (self.own or self.mount is not None)

    @property
    def status(self) -> str:
        """`status` of its status (vergeos.md §2.6)."""
        return str(self.kept.get("status") or ("online" if self.online else "offline"))


@dataclass(frozen=True)
class Nic(OfRow):
    """A NIC of a VM. `index` is its place among the machine's NICs; None: the machine has none such."""

    vm: Vm
    place: int
    index: int | None = None
    mac: str = ""
    ip: str = ""
    vnet: int | None = None

    @property
    def online(self) -> bool:
        """Whether a running machine has it."""
        return self.vm.runs and self.index is not None


@dataclass(frozen=True)
class Device(OfRow):
    """A device of a VM beside drives and NICs: its TPM."""

    vm: Vm

    @property
    def uuid(self) -> str:
        """What it is known by outside; no two VMs have one in common, whatever they were made of."""
        return str(uuid.uuid5(_DEVICES, self.row.name))

    @property
    def told(self) -> dict[str, Any]:
        """What another one is made of that is to be like it."""
        return {**self.kept, "enabled": self.enabled}

    @property
    def enabled(self) -> bool:
        """Whether the machine has it from its next start on."""
        return self.vm.instance is not None and self.vm.instance.spec.then.has_tpm

    @property
    def online(self) -> bool:
        """Whether a running machine has it."""
        return self.vm.runs and self.vm.instance is not None and self.vm.instance.spec.has_tpm


@dataclass(frozen=True)
class Net:
    """A network: the default one, or a bridge of the operator's."""

    key: int
    machine: int
    name: str
    kind: str
    host_nic: str = ""
    description: str = ""
    subnet: str = ""
    gateway: str = ""


@dataclass(frozen=True)
class File(OfRow):
    """A medium of the catalogue: a volume that is no VM's own."""

    volume: Volume
    used: int = 0  # bytes on the host


@dataclass(frozen=True)
class Kept(OfRow):
    """A row that is nothing but what it keeps."""

    @property
    def data(self) -> dict[str, Any]:
        """What it keeps."""
        return self.kept


@dataclass(frozen=True)
class Node:
    """This host, as node and as the one cluster."""

    key: int
    machine: int
    report: HostReport
    cluster: int = 0
    seen: int = 0
    used_memory: int = 0
    used_vcpus: int = 0
    running: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
