"""`machine_stats` with their histories, and what drives and NICs have done (vergeos.md §2.5 to §2.7).

A percentage is of all that the machine could have: its vCPUs, its memory. Of a process the host knows neither the
guest's own shares (user, system, waiting) nor temperatures: these are 0, and all is what the machine itself takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Resource
from polyvisor.dialects.vergeos.samples import NODE, Load
from polyvisor.dialects.vergeos.sources import Drive, Machine, Nic
from polyvisor.dialects.vergeos.tables.declare import constant, key, told
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.blueprint import serial_of
from polyvisor.model.host import DiskCounts
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import MIB

_OWN_DISK = "pvdisk"  # the serial of the disk that an image was unpacked to


@dataclass(frozen=True)
class Stat:
    """What a machine took at a time."""

    machine: Machine
    load: Load

    @property
    def key(self) -> int:
        """Its machine's key: there is one for each."""
        return self.machine.key

    @property
    def line(self) -> int:
        """The key of a record of its history."""
        return self.machine.key * 2**34 + self.load.at

    @property
    def cpu(self) -> int:
        """Percent."""
        return _percent(self.load.cpus, _cores(self.machine))

    @property
    def ram(self) -> int:
        """MB."""
        return self.load.resident // MIB


def _percent(part: float, whole: float) -> int:
    return min(100, round(100 * part / whole)) if whole > 0 else 0


def _cores(machine: Machine) -> int:
    if machine.vm is not None:
        return machine.vm.now[0]
    return machine.report.cpus if machine.report is not None else 0


def _memory(machine: Machine) -> int:
    if machine.vm is not None:
        return machine.vm.now[1]
    return machine.report.memory // MIB if machine.report is not None else 0


def _usage(stat: Stat) -> list[int]:
    return [stat.cpu] * _cores(stat.machine) if stat.machine.vm is not None and stat.machine.runs else []


def _above(percent: int) -> Callable[[Stat], int]:
    return lambda stat: _cores(stat.machine) if stat.cpu > percent else 0


def _numbers() -> tuple[Column, ...]:
    zeros = ("user_cpu", "system_cpu", "iowait_cpu", "irq_cpu", "core_temp", "core_temp_top")
    return (
        told("machine", Kind.FK, lambda stat: stat.machine.key, refers="machines"),
        told("total_cpu", Kind.INT, lambda stat: stat.cpu),
        told("vmusage_cpu", Kind.INT, lambda stat: stat.cpu),
        *(constant(name, Kind.INT, 0) for name in zeros),
        told("ram_used", Kind.INT, lambda stat: stat.ram),
        told("vram_used", Kind.INT, lambda stat: _memory(stat.machine) if stat.machine.runs else 0),
        told("core_peak", Kind.INT, lambda stat: stat.cpu),
        *(told(f"core_count_gt_{share}", Kind.INT, _above(share)) for share in (25, 50, 75)),
    )


STATS = Table(
    "machine_stats",
    (
        key(),
        *_numbers(),
        told("ram_pct", Kind.INT, lambda stat: _percent(stat.ram, _memory(stat.machine))),
        told("core_usagelist", Kind.JSON, _usage),
        told("modified", Kind.TIME, lambda stat: stat.load.at),
    ),
    display="machine#$display",
    short=("$key", "machine", "total_cpu", "ram_used"),
)


def _history_table(name: str) -> Table:
    columns = (key(lambda stat: stat.line), *_numbers(), told("timestamp", Kind.TIME, lambda stat: stat.load.at))
    return Table(name, columns, display="timestamp", short=("$key", "machine", "timestamp", "total_cpu"))


def _id(machine: Machine) -> InstanceId | None:
    if machine.vm is not None:
        return InstanceId(machine.vm.row.name) if machine.vm.instance is not None else None
    return NODE if machine.kind == "node" else None


async def _stats(world: World) -> Sequence[Stat]:
    found = [(machine, _id(machine)) for machine in await world.machines()]
    return [Stat(one, Load(world.now) if id is None else world.samples.load(id)) for one, id in found]


def _history(*, long: bool) -> Callable[[World], Any]:
    async def load(world: World) -> Sequence[Stat]:
        found = [(machine, _id(machine)) for machine in await world.machines()]
        return [Stat(one, load) for one, id in found if id is not None for load in world.samples.history(id, long=long)]

    return load


# -- drives ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DriveStat:
    """What a drive has done since its machine runs, and how much of that in each of the last seconds."""

    drive: Drive
    counts: DiskCounts = DiskCounts()
    before: DiskCounts = DiskCounts()
    passed: float = 0.0

    @property
    def key(self) -> int:
        """Its drive's key."""
        return self.drive.key

    def rate(self, name: str) -> int:
        """Of one of the counts, for a second."""
        if self.passed <= 0:
            return 0
        done: int = getattr(self.counts, name) - getattr(self.before, name)
        return max(0, round(done / self.passed))


DRIVE_STATS = Table(
    "machine_drive_stats",
    (
        key(),
        told("parent_drive", Kind.FK, lambda stat: stat.drive.key, refers="machine_drives"),
        told("reads", Kind.INT, lambda stat: stat.counts.reads),
        told("writes", Kind.INT, lambda stat: stat.counts.writes),
        told("read_bytes", Kind.INT, lambda stat: stat.counts.read),
        told("write_bytes", Kind.INT, lambda stat: stat.counts.written),
        told("rops", Kind.INT, lambda stat: stat.rate("reads")),
        told("wops", Kind.INT, lambda stat: stat.rate("writes")),
        told("rbps", Kind.INT, lambda stat: stat.rate("read")),
        told("wbps", Kind.INT, lambda stat: stat.rate("written")),
        told("totalbps", Kind.INT, lambda stat: stat.rate("read") + stat.rate("written")),
        told("used_bytes", Kind.INT, lambda stat: stat.drive.used),
        told("max_bytes", Kind.INT, lambda stat: stat.drive.volume.size if stat.drive.volume else 0),
        *(constant(name, Kind.INT, 0) for name in ("util", "service_time")),
        constant("physical", Kind.BOOL, False),
        constant("up_since", Kind.TIME, 0),
        constant("last_update", Kind.TIME, 0),
    ),
    display="parent_drive#$display",
    short=("$key", "parent_drive", "reads", "writes", "read_bytes", "write_bytes"),
)


async def _drive_stats(world: World) -> Sequence[DriveStat]:
    drives = await world.drives()
    runs = {drive.vm.row.name: drive.vm.instance for drive in drives if drive.online and drive.vm.instance is not None}
    answers: Mapping[InstanceId, Any] = await world.samples.disks.of(runs.values()) if runs else {}
    made = []
    for drive in drives:
        serial = _OWN_DISK if drive.own else serial_of(drive.volume.id) if drive.volume is not None else ""
        known = answers.get(InstanceId(drive.vm.row.name), ()) if drive.online else ()
        counts = [(at, told.get(serial, DiskCounts())) for at, told in known]
        if len(counts) == 2:
            (now, last), (then, before) = counts
            made.append(DriveStat(drive, last, before, now - then))
        else:
            made.append(DriveStat(drive, counts[0][1] if counts else DiskCounts()))
    return made


# -- NICs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NicStat:
    """What a NIC has carried, in bytes, as its guest counts it: where a guest has one NIC, and tells."""

    nic: Nic
    received: int = 0
    sent: int = 0
    rx_rate: int = 0
    tx_rate: int = 0

    @property
    def key(self) -> int:
        """Its NIC's key."""
        return self.nic.key


NIC_STATS = Table(
    "machine_nic_stats",
    (
        key(),
        told("parent_nic", Kind.FK, lambda stat: stat.nic.key, refers="machine_nics"),
        told("rxbps", Kind.INT, lambda stat: stat.rx_rate),
        told("txbps", Kind.INT, lambda stat: stat.tx_rate),
        told("totalbps", Kind.INT, lambda stat: stat.rx_rate + stat.tx_rate),
        told("rx_bytes", Kind.INT, lambda stat: stat.received),
        told("tx_bytes", Kind.INT, lambda stat: stat.sent),
        *(constant(name, Kind.INT, 0) for name in ("rxpps", "txpps", "rx_pckts", "tx_pckts", "rx_errors", "tx_errors")),
        constant("last_update", Kind.TIME, 0),
    ),
    display="parent_nic#$display",
    short=("$key", "parent_nic", "rx_bytes", "tx_bytes"),
)


async def _nic_stats(world: World) -> Sequence[NicStat]:
    nics = await world.nics()
    online: dict[str, list[Nic]] = {}
    for nic in nics:
        if nic.online and nic.vm.instance is not None and nic.vm.instance.observed.ready:
            online.setdefault(nic.vm.row.name, []).append(nic)
    alone = {some[0].key: some[0].vm.instance for some in online.values() if len(some) == 1}
    asked = [one for one in alone.values() if one is not None]
    answers: Mapping[InstanceId, Any] = await world.samples.traffic.of(asked) if asked else {}
    return [_nic_stat(nic, answers.get(InstanceId(nic.vm.row.name), ()) if nic.key in alone else ()) for nic in nics]


def _nic_stat(nic: Nic, known: Sequence[tuple[float, Any]]) -> NicStat:
    if not known:
        return NicStat(nic)
    now, last = known[0]
    then, before = known[-1]
    passed = now - then
    rates = [max(0, round((a - b) / passed)) if passed > 0 else 0
             for a, b in ((last.received, before.received), (last.sent, before.sent))]  # fmt: skip
    return NicStat(nic, last.received, last.sent, *rates)


RESOURCES = (
    Resource(STATS, _stats, of_vm=True),
    Resource(_history_table("machine_stats_history_short"), _history(long=False), of_vm=True),
    Resource(_history_table("machine_stats_history_long"), _history(long=True), of_vm=True),
    Resource(DRIVE_STATS, _drive_stats),
    Resource(NIC_STATS, _nic_stats),
)
