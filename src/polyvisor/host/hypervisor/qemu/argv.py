"""The QEMU command line: a pure function of a Machine, this host's facts and descriptor numbers.

No path of an instance appears in it. Disks, logs and sockets are opened by us and handed over as descriptors, so the
process can run under a uid of its own that may open nothing of the data directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.hypervisor.qemu.probe import Accelerator
from polyvisor.host.paths import CONFIG, CONSOLE, JOURNAL, NVRAM
from polyvisor.model.ids import machine_uuid
from polyvisor.model.spec import Firmware, Shape
from polyvisor.model.units import MIB
from polyvisor.ports.hypervisor import DiskFile, Machine, TapNic

FREE_PORTS = {Shape.MICRO: 4, Shape.FULL: 8}  # for disks to come; those there at launch have a port each as well
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_KERNEL_LINE = (
    "console=ttyS0 panic=-1 cryptomgr.notests tsc=reliable init_on_alloc=0 lsm= rcupdate.rcu_expedited=1 "
    "i8042.noaux 8250.nr_uarts=1 pcie_ports=native quiet loglevel=3"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the host knows once: which binary, which accelerator, where UEFI lies."""

    binary: str
    version: str
    accelerator: Accelerator
    ovmf_code: Path | None
    ovmf_vars: Path | None
    tsc_khz: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """A file to be opened by us: `write` is read-write, `append` is write-only at the end."""

    key: str
    path: Path
    mode: str  # "read" | "write" | "append"


def files(machine: Machine, facts: Facts) -> tuple[Opened, ...]:
    """Every file the machine needs, in the order of their descriptors."""
    here = machine.directory
    wanted = [Opened("console", here / CONSOLE, "append")]
    if machine.blueprint.spec.shape is Shape.MICRO:
        assert machine.kernel and machine.initrd
        wanted += [
            Opened("journal", here / JOURNAL, "append"),
            Opened("config", here / CONFIG, "read"),
            Opened("kernel", machine.kernel, "read"),
            Opened("initrd", machine.initrd, "read"),
        ]
    if machine.blueprint.spec.firmware is Firmware.UEFI:
        assert facts.ovmf_code
        wanted += [Opened("code", facts.ovmf_code, "read"), Opened("vars", here / NVRAM, "write")]
    if machine.seed:
        wanted.append(Opened("seed", machine.seed, "read"))
    for disk in machine.disks:
        wanted.append(Opened(f"disk-{disk.serial}", disk.path, "read" if disk.read_only else "write"))
        if disk.backing:
            wanted.append(Opened(f"back-{disk.serial}", disk.backing.path, "read"))
    return tuple(wanted)


class Sets:
    """Descriptor numbers by key: `set` for what QEMU opens itself, `proc` for what it opens with stdio."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self._fds = fds
        self._order = {key: index + 1 for index, key in enumerate(fds)}

    def fd(self, key: str) -> int:
        """The inherited descriptor."""
        return self._fds[key]

    def set(self, key: str) -> str:
        """The path by which QEMU opens it from its fd set."""
        return f"/dev/fdset/{self._order[key]}"

    def proc(self, key: str) -> str:
        """The path by which stdio opens it anew (the file itself must be readable)."""
        return f"/proc/self/fd/{self._fds[key]}"

    def options(self, keys: Sequence[str]) -> list[str]:
        """`-add-fd` for each of those."""
        return [x for key in keys for x in ("-add-fd", f"fd={self._fds[key]},set={self._order[key]}")]


def argv(machine: Machine, facts: Facts, fds: Mapping[str, int]) -> list[str]:
    """The whole command line. `fds` holds `qmp`, `agent`, `console-socket`, `tap` or `net`, every key of `files`."""
    spec = machine.blueprint.spec
    sets = Sets(fds)
    opened = [f.key for f in files(machine, facts) if f.key not in ("kernel", "initrd", "config")]
    line = [
        facts.binary,
        "-name", f"polyvisor-{machine.blueprint.id}", "-uuid", machine_uuid(machine.blueprint.id),
        "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-sandbox", SANDBOX,
        "-action", "shutdown=pause", "-action", "panic=shutdown",
        "-accel", facts.accelerator.option, "-cpu", facts.accelerator.cpu, "-smp", str(spec.vcpus),
        "-m", f"size={-(-spec.memory // MIB)}M", "-rtc", "base=utc,driftfix=none",
        *sets.options(opened),
        *_machine(machine, facts, sets),
        *_channels(machine, sets),
    ]  # fmt: skip
    own = [disk for disk in machine.disks if not disk.removable]
    volumes = [disk for disk in machine.disks if disk.removable]
    for index, disk in enumerate(own):
        line += _disk(disk, sets, f"id=fixed-{disk.serial}" + (f",bootindex={index}" if disk.boot else ""))
    line += [*_seed(machine, sets), *_nic(machine, sets)]
    line += ["-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0", "-device", "pvpanic-pci"]
    for slot in range(FREE_PORTS[spec.shape] + len(volumes)):  # last, so that the rest keeps its place on the bus
        line += ["-device", f"pcie-root-port,id={port_of(slot)},chassis={slot + 1},slot={slot + 1}"]
    for slot, disk in enumerate(volumes):
        line += _disk(disk, sets, f"id={plug_of(slot, disk.serial)},bus={port_of(slot)}")
    return line


def port_of(slot: int) -> str:
    """The id of a port that a disk can be plugged into."""
    return f"hp{slot}"


def plug_of(slot: int, serial: str) -> str:
    """The id of the disk in that port: which volume is where can be read from the machine."""
    return f"{port_of(slot)}-{serial}"


def _machine(machine: Machine, facts: Facts, sets: Sets) -> list[str]:
    spec = machine.blueprint.spec
    if spec.shape is Shape.MICRO:
        tsc = f" tsc_early_khz={facts.tsc_khz}" if facts.tsc_khz else ""
        return [
            "-machine", "microvm,x-option-roms=off,pit=off,pic=off,rtc=on,pcie=on,acpi=on",
            "-kernel", sets.proc("kernel"), "-initrd", sets.proc("initrd"), "-append", _KERNEL_LINE + tsc,
            "-fw_cfg", f"name=opt/polyvisor/config,file={sets.proc('config')}",
        ]  # fmt: skip
    if spec.firmware is Firmware.BIOS:
        return ["-machine", "q35,vmport=off"]
    return [
        "-machine", "q35,vmport=off,pflash0=code,pflash1=vars",
        "-blockdev", f"driver=file,node-name=code-file,filename={sets.set('code')},read-only=on",
        "-blockdev", "driver=raw,node-name=code,file=code-file,read-only=on",
        "-blockdev", f"driver=file,node-name=vars-file,filename={sets.set('vars')}",
        "-blockdev", "driver=raw,node-name=vars,file=vars-file",
    ]  # fmt: skip


def _channels(machine: Machine, sets: Sets) -> list[str]:
    line = [
        "-chardev", f"socket,id=qmp,fd={sets.fd('qmp')},server=on,wait=off", "-mon", "chardev=qmp,mode=control",
        "-chardev",
        f"socket,id=console,fd={sets.fd('console-socket')},server=on,wait=off,"
        f"logfile={sets.set('console')},logappend=on",
        "-serial", "chardev:console",
        "-device", "virtio-serial-pci,id=vser",
        "-chardev", f"socket,id=agent,fd={sets.fd('agent')},server=on,wait=off",
        "-device", "virtserialport,bus=vser.0,nr=1,chardev=agent,name=polyvisor.agent",
    ]  # fmt: skip
    if machine.blueprint.spec.shape is Shape.MICRO:
        line += [
            "-chardev", f"file,id=journal,path={sets.set('journal')},append=on",
            "-device", "virtserialport,bus=vser.0,nr=2,chardev=journal,name=polyvisor.journal",
        ]  # fmt: skip
    return line


def node_options(disk: DiskFile, filename: str) -> dict[str, object]:
    """The block node of a disk's own file; what lies behind it is named, never read from its header."""
    read_only: bool = disk.read_only
    file = {"driver": "file", "filename": filename, "read-only": read_only, "discard": "unmap"}
    return {"driver": disk.format, "node-name": f"disk-{disk.serial}", "read-only": read_only, "file": file}


def _disk(disk: DiskFile, sets: Sets, place: str) -> list[str]:
    flag = "on" if disk.read_only else "off"
    node = f"disk-{disk.serial}"
    line: list[str] = []
    backing = ""
    if disk.backing:
        back = f"back-{disk.serial}"
        line += [
            "-blockdev", f"driver=file,node-name={back}-file,filename={sets.set(back)},read-only=on",
            "-blockdev", f"driver={disk.backing.format},node-name={back},file={back}-file,read-only=on",
        ]  # fmt: skip
        backing = f",backing={back}"
    line += [
        "-blockdev", f"driver=file,node-name={node}-file,filename={sets.set(node)},read-only={flag},discard=unmap",
        "-blockdev",
        f"driver={disk.format},node-name={node},file={node}-file,read-only={flag},discard=unmap{backing}",
    ]  # fmt: skip
    return [*line, "-device", f"virtio-blk-pci,{place},drive={node},serial={disk.serial}"]


def _seed(machine: Machine, sets: Sets) -> list[str]:
    if machine.seed is None:
        return []
    return [
        "-blockdev", f"driver=file,node-name=seed-file,filename={sets.set('seed')},read-only=on",
        "-blockdev", "driver=raw,node-name=seed,file=seed-file,read-only=on",
        "-device", "virtio-blk-pci,drive=seed,serial=pvseed",
    ]  # fmt: skip


def _nic(machine: Machine, sets: Sets) -> list[str]:
    address = machine.blueprint.address
    if machine.nic is None or address is None:
        return []
    device = f"virtio-net-pci,id=nic0,netdev=net0,mac={address.mac},romfile="
    if isinstance(machine.nic, TapNic):
        return ["-netdev", f"tap,id=net0,fd={sets.fd('tap')}", "-device", device]
    return ["-netdev", f"stream,id=net0,server=off,addr.type=fd,addr.str={sets.fd('net')}", "-device", device]
