"""What a running machine takes of this host, read from the kernel's accounts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from polyvisor.model.faults import Fault
from polyvisor.model.host import DiskCounts, Taken
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import RunRecord
from polyvisor.model.units import Bytes
from polyvisor.ports.guest import Guest
from polyvisor.ports.hypervisor import LiveVm

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ASK_LIMIT = 2.0
_ACCOUNT = "/proc/net/dev"  # in a guest as here


def of_process(run: RunRecord) -> Taken | None:
    """What its process takes; None: it is gone, or the pid is another one's by now."""
    try:
        stat = Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()
        pages = Path(f"/proc/{run.pid}/statm").read_text().split()
    except OSError:
        return None
    if int(stat[19]) != run.start_ticks:
        return None
    cpu = (int(stat[11]) + int(stat[12])) / _TICK
    return Taken(cpu, Bytes(int(pages[1]) * _PAGE), Bytes(int(pages[0]) * _PAGE))


def of_processes(runs: Mapping[InstanceId, RunRecord]) -> dict[InstanceId, Taken]:
    """The same of many, but for those that are gone."""
    found = {id: of_process(run) for id, run in runs.items()}
    return {id: taken for id, taken in found.items() if taken is not None}


async def of_disks(vm: LiveVm | None) -> Mapping[str, DiskCounts]:
    """What a machine tells of its disks; nothing, when there is none or it does not answer."""
    try:
        return await vm.disk_counts() if vm is not None else {}
    except Fault:
        return {}


async def with_traffic(taken: Taken, guest: Guest) -> Taken:
    """The same with what the guest itself has counted; without, when it does not answer soon."""
    try:
        async with asyncio.timeout(_ASK_LIMIT):
            text = b"".join([piece async for piece in guest.read_file(_ACCOUNT)]).decode(errors="replace")
    except (Fault, TimeoutError):
        return taken
    received, sent = traffic(text)
    return replace(taken, received=received, sent=sent)


def traffic(text: str) -> tuple[int, int]:
    """Bytes received and sent by all devices but the loopback one, from the kernel's table of them."""
    received = sent = 0
    for line in text.splitlines():
        name, colon, numbers = line.partition(":")
        fields = numbers.split()
        if colon and name.strip() != "lo" and len(fields) >= 9 and fields[0].isdigit() and fields[8].isdigit():
            received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent


def physical_memory() -> Bytes:
    """What this machine has of it."""
    return Bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
