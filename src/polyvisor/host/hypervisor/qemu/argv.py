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
from polyvisor.model.instance import MAX_ON_BUS, Bus
from polyvisor.model.spec import Firmware, Shape
from polyvisor.model.units import MIB
from polyvisor.ports.hypervisor import Cpu, DiskFile, Layout, Machine, TapNic

FREE_PORTS = {Shape.MICRO: 4, Shape.FULL: 8}  # for disks to come, beside those there at launch, while the bus has room
BALLOON = "balloon0"
SCREEN = "screen0"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# What is saved has no copy of firmware and boot tables: a machine made of it cannot boot anew, it ends and says so.
MICRO, FULL = "microvm,x-option-roms=off,pit=off,pic=off,rtc=on,pcie=on,acpi=on", "q35,vmport=off"
_RESTORING = ("-S", "-incoming", "defer", "-global", "migration.send-configuration=off", "-action", "reboot=shutdown")
_KERNEL_LINE = (
    "console=ttyS0 panic=-1 cryptomgr.notests tsc=reliable init_on_alloc=0 lsm= rcupdate.rcu_expedited=1 "
    "i8042.noaux 8250.nr_uarts=1 pcie_ports=native reboot=t quiet loglevel=3"
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
    guest_cpu: Cpu = Cpu("")
    discard: Path | None = None  # without it no machine has a balloon
    tpm: bool = False  # whether one can be made


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
        wanted += [Opened("journal", here / JOURNAL, "append"), Opened("config", here / CONFIG, "read")]
        if machine.kernel and machine.initrd:
            wanted += [Opened("kernel", machine.kernel, "read"), Opened("initrd", machine.initrd, "read")]
    if machine.blueprint.spec.firmware is Firmware.UEFI:
        assert facts.ovmf_code
        wanted += [Opened("code", facts.ovmf_code, "read"), Opened("vars", here / NVRAM, "write")]
    if machine.seed:
        wanted.append(Opened("seed", machine.seed, "read"))
    for disk in machine.disks:
        wanted.append(Opened(node_of(disk), disk.path, "read" if disk.read_only else "write"))
        wanted += [Opened(name, below.path, "read") for name, below in backings(disk)]
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


def argv(machine: Machine, facts: Facts, fds: Mapping[str, int], *, restoring: bool = False) -> list[str]:
    """The whole command line. `fds` holds `qmp`, `agent`, `console-socket`, `tap` or `net`, every key of `files`, and
    `memory` and `tpm` where there is such a thing."""
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
        *_memory(machine, sets),
        *(_RESTORING if restoring else ()),
        *_channels(machine, sets),
    ]  # fmt: skip
    own = [disk for disk in machine.disks if not disk.removable]
    volumes = [disk for disk in machine.disks if disk.removable and disk.bus is Bus.VIRTIO]
    for index, disk in enumerate(own):
        line += _disk(disk, sets, f"id=fixed-{disk.serial}" + (f",bootindex={index}" if disk.boot else ""))
    line += [*_seed(machine, sets), *_nic(machine, sets), *_bridged(machine, sets)]
    line += ["-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0", "-device", "pvpanic-pci"]
    layout = machine.layout or _usual(spec.shape, volumes, balloon=facts.discard is not None)
    if layout.balloon:  # what was made without one is restored without one: the rest is where it was
        line += ["-device", f"virtio-balloon-pci,id={BALLOON},deflate-on-oom=on,free-page-reporting=on"]
    for slot in range(layout.slots):  # last, so that the rest keeps its place on the bus
        line += ["-device", f"pcie-root-port,id={port_of(slot)},chassis={slot + 1},slot={slot + 1}"]
    for disk in volumes:
        slot = layout.taken[disk.serial]
        place = f"id={plug_of(slot, disk.serial)},bus={port_of(slot)}"
        line += _disk(disk, sets, place + _boot_order(machine, disk))
    return [*line, *_usb(machine, sets), *_screen(machine), *_tpm(machine, sets)]


def _boot_order(machine: Machine, disk: DiskFile) -> str:
    """Of a blank machine's disks; they are in the order in which they were attached."""
    return f",bootindex={machine.disks.index(disk)}" if disk.boot and disk.removable else ""


def _usb(machine: Machine, sets: Sets) -> list[str]:
    """Each disk at a port of its own, by its place in the order: what is restored has it the same."""
    disks = [disk for disk in machine.disks if disk.bus is Bus.USB]
    most = MAX_ON_BUS[Bus.USB]
    line = ["-device", f"qemu-xhci,id=usb,p2={most},p3={most}"] if disks else []
    for port, disk in enumerate(disks, start=1):
        place = f"bus=usb.0,port={port},id=usb-{disk.serial},removable=on" + _boot_order(machine, disk)
        line += _disk(disk, sets, place, driver="usb-storage")
    return line


def _screen(machine: Machine) -> list[str]:
    """Pixels in the size that firmware and guest find by themselves; viewers are let in one by one, by QMP."""
    displays = machine.blueprint.spec.displays
    if not displays:
        return []
    size = f"xres={displays[0].width},yres={displays[0].height}"
    return ["-device", f"VGA,id={SCREEN},edid=on,{size}", "-vnc", "none"]


def _tpm(machine: Machine, sets: Sets) -> list[str]:
    """TIS and not CRB, whose buffer is memory of its own and so is not in what is saved: an answer that the guest has
    not read yet would be lost. Who knows the one knows the other."""
    if not machine.blueprint.spec.has_tpm:
        return []
    return [
        "-chardev", f"socket,id=tpm,fd={sets.fd('tpm')}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
        "-device", "tpm-tis,tpmdev=tpm0",
    ]  # fmt: skip


def _usual(shape: Shape, volumes: Sequence[DiskFile], *, balloon: bool) -> Layout:
    taken = {disk.serial: slot for slot, disk in enumerate(volumes)}
    free = min(FREE_PORTS[shape], MAX_ON_BUS[Bus.VIRTIO] - len(volumes))
    return Layout(len(volumes) + max(0, free), taken, balloon)


def port_of(slot: int) -> str:
    """The id of a port that a disk can be plugged into."""
    return f"hp{slot}"


def plug_of(slot: int, serial: str) -> str:
    """The id of the disk in that port: which volume is where can be read from the machine."""
    return f"{port_of(slot)}-{serial}"


def _memory(machine: Machine, sets: Sets) -> list[str]:
    if machine.memory is None:
        return []
    size, share = -(-machine.blueprint.spec.memory // MIB), "on" if machine.memory.own else "off"
    return ["-object", f"memory-backend-file,id=ram,size={size}M,mem-path={sets.proc('memory')},share={share}"]


def _machine(machine: Machine, facts: Facts, sets: Sets) -> list[str]:
    spec = machine.blueprint.spec
    ram = ",memory-backend=ram" if machine.memory is not None else ""
    if spec.shape is Shape.MICRO:
        tsc = f" tsc_early_khz={facts.tsc_khz}" if facts.tsc_khz else ""
        line = ["-machine", MICRO + ram]
        if machine.kernel:
            line += [
                "-kernel", sets.proc("kernel"), "-initrd", sets.proc("initrd"), "-append", _KERNEL_LINE + tsc,
            ]  # fmt: skip
        return [*line, "-fw_cfg", f"name=opt/polyvisor/config,file={sets.proc('config')}"]
    if spec.firmware is Firmware.BIOS:
        return ["-machine", FULL + ram]
    return [
        "-machine", f"{FULL},pflash0=code,pflash1=vars{ram}",
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


def node_of(disk: DiskFile) -> str:
    """The block node of a disk: which overlay a machine writes to can be read from the node's name."""
    return f"disk-{disk.serial}" + (f"-{disk.generation}" if disk.generation else "")


def backings(disk: DiskFile) -> list[tuple[str, DiskFile]]:
    """The node's name and the disk of all that lies below one, the uppermost first."""
    found: list[tuple[str, DiskFile]] = []
    below = disk.backing
    while below is not None:
        found.append((f"back-{disk.serial}" + (f"-{len(found) + 1}" if found else ""), below))
        below = below.backing
    return found


def node_options(disk: DiskFile, filename: str) -> dict[str, object]:
    """The block node of a disk's own file; what lies behind it is named, never read from its header."""
    read_only: bool = disk.read_only
    file = {"driver": "file", "filename": filename, "read-only": read_only, "discard": "unmap"}
    return {"driver": disk.format, "node-name": node_of(disk), "read-only": read_only, "file": file}


def overlay_options(disk: DiskFile, filename: str) -> tuple[dict[str, object], dict[str, object]]:
    """The block nodes of an overlay that a running machine is to be switched to: it is put above the present one.

    The file is a node of its own, as at a launch. Else it would be opened anew once it is written to no more, and its
    first descriptor, which stays in its set, would keep the lock of a writer.
    """
    node = node_of(disk)
    file = {"driver": "file", "node-name": f"{node}-file", "filename": filename, "discard": "unmap"}
    return (
        {**file, "read-only": False},
        {"driver": disk.format, "node-name": node, "file": f"{node}-file", "discard": "unmap", "backing": None},
    )


def _disk(disk: DiskFile, sets: Sets, place: str, driver: str = "virtio-blk-pci") -> list[str]:
    line: list[str] = []
    lower = ""
    for name, below in reversed(backings(disk)):
        line += _node(name, below.format, sets, "read-only=on", lower)
        lower = name
    node = node_of(disk)
    line += _node(node, disk.format, sets, f"read-only={'on' if disk.read_only else 'off'},discard=unmap", lower)
    return [*line, "-device", f"{driver},{place},drive={node},serial={disk.serial}"]


def _node(name: str, format: str, sets: Sets, access: str, lower: str) -> list[str]:
    """The nodes of a file and of the disk in it, above the node `lower`."""
    backing = f",backing={lower}" if lower else ""
    return [
        "-blockdev", f"driver=file,node-name={name}-file,filename={sets.set(name)},{access}",
        "-blockdev", f"driver={format},node-name={name},file={name}-file,{access}{backing}",
    ]  # fmt: skip


def _seed(machine: Machine, sets: Sets) -> list[str]:
    if machine.seed is None:
        return []
    return [
        "-blockdev", f"driver=file,node-name=seed-file,filename={sets.set('seed')},read-only=on",
        "-blockdev", "driver=raw,node-name=seed,file=seed-file,read-only=on",
        "-device", "virtio-blk-pci,drive=seed,serial=pvseed",
    ]  # fmt: skip


def _bridged(machine: Machine, sets: Sets) -> list[str]:
    line: list[str] = []
    for index, nic in enumerate(machine.bridged):
        line += ["-netdev", f"tap,id=bridged{index},fd={sets.fd(f'bridged{index}')}"]
        line += ["-device", f"virtio-net-pci,netdev=bridged{index},mac={nic.mac},romfile="]
    return line


def _nic(machine: Machine, sets: Sets) -> list[str]:
    address = machine.blueprint.address
    if machine.nic is None or address is None:
        return []
    device = f"virtio-net-pci,id=nic0,netdev=net0,mac={address.mac},romfile="
    if isinstance(machine.nic, TapNic):
        return ["-netdev", f"tap,id=net0,fd={sets.fd('tap')}", "-device", device]
    return ["-netdev", f"stream,id=net0,server=off,addr.type=fd,addr.str={sets.fd('net')}", "-device", device]
