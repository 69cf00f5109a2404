"""What machines take: for each of them, also for those that are off, and at a bounded price."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dialect.served import Served
from dialect.vergeos.conftest import Api
from polyvisor.dialects.vergeos.samples import EVERY, Asked, Samples
from polyvisor.model.host import DiskCounts, Taken
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.units import MIB, Bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")
MSTF = (
    "$key,machine,total_cpu,user_cpu,system_cpu,iowait_cpu,vmusage_cpu,irq_cpu,ram_used,ram_pct,vram_used,"
    "core_usagelist,core_temp,core_temp_top,core_peak,core_count_gt_25,core_count_gt_50,core_count_gt_75,modified"
)


async def test_a_machine_that_is_off_takes_nothing(api: Api) -> None:
    vm = await api.vm()
    (row,) = await api.get("machine_stats", filter=f"machine eq {vm.machine}", fields=MSTF, limit=1)
    assert row["machine"] == vm.machine
    assert row.pop("core_usagelist") == []
    assert all(type(value) is int for value in row.values())
    assert (row["total_cpu"], row["ram_used"], row["ram_pct"]) == (0, 0, 0)


async def test_a_share_of_the_cpu_is_between_two_looks(
    api: Api, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await api.running(cpu_cores=2)
    rows = await api.get("machine_logs", filter=f"machine eq {vm.machine}", fields="machine#vm#uuid as uuid", limit=1)
    assert rows
    engine = served.parts.engine
    page = await engine.instances.list(_system(), None, 10_000)
    id = next(one.id for one in page.items if one.name == vm.name)
    spent = 0.0

    async def accounts(*_: Any) -> Mapping[InstanceId, Taken]:
        return {id: Taken(spent, Bytes(256 * MIB))}

    monkeypatch.setattr(engine.hosts, "accounts", accounts)
    samples = Samples(engine)
    began = asyncio.get_running_loop().time()
    await samples.look(1000)
    assert samples.load(id).cpus == 0
    await asyncio.sleep(0.05)
    spent = asyncio.get_running_loop().time() - began
    await samples.look(1000 + EVERY)
    assert 0.8 < samples.load(id).cpus < 1.3
    assert samples.load(id).resident == 256 * MIB
    await samples.look(1060)
    assert [one.at for one in samples.history(id, long=False)] == [1000, 1060]
    assert [one.at for one in samples.history(id, long=True)] == [1000]
    for minute in range(200):
        await samples.look(2000 + 60 * minute)
    assert len(samples.history(id, long=False)) == 120
    assert samples.load(InstanceId("nobody")).cpus == 0


def _system() -> Any:
    from polyvisor.model.principal import SYSTEM

    return SYSTEM


async def test_histories_are_asked_by_time(api: Api) -> None:
    vm = await api.running()
    since = int(time.time()) - 5
    async with asyncio.timeout(30):
        while not (await api.get("machine_stats_history_short", filter=f"machine eq {await _node(api)}")):
            await asyncio.sleep(0.2)
    for table in ("machine_stats_history_short", "machine_stats_history_long"):
        machine = await _node(api)
        rows = await api.get(table, filter=f"machine eq {machine}", fields=f"timestamp,{MSTF}", sort="-timestamp")
        assert rows
        assert all(row["machine"] == machine for row in rows)
        assert [row["timestamp"] for row in rows] == sorted((row["timestamp"] for row in rows), reverse=True)
    later = f"machine eq {vm.machine} and timestamp ge {since + 10**6}"
    assert await api.get("machine_stats_history_short", filter=later, fields="timestamp") == []


async def _node(api: Api) -> int:
    (node,) = await api.get("nodes", fields="machine,machine#stats#ram_used as ram_used")
    assert type(node["ram_used"]) is int
    return int(node["machine"])


async def test_drives_and_nics_have_counts(api: Api) -> None:
    (net,) = await api.get("vnets", filter="name eq 'Internal'", fields="$key")
    vm = await api.vm()
    drive = await api.drive(vm)
    nic = await api.made("machine_nics", machine=vm.machine, vnet=net["$key"])
    fields = (
        "$key,parent_drive,reads,writes,read_bytes,write_bytes,rops,wops,rbps,wbps,totalbps,used_bytes,max_bytes,util,"
        "service_time,physical,up_since,last_update"
    )
    for _ in range(2):
        (row,) = await api.get("machine_drive_stats", filter=f"parent_drive eq {drive}", fields=fields)
        assert (row["reads"], row["write_bytes"], row["wbps"], row["max_bytes"]) == (0, 0, 0, 4 * 2**20)
        (row,) = await api.get("machine_nic_stats", filter=f"parent_nic eq {nic}", fields="all")
        assert (row["rx_bytes"], row["txbps"]) == (0, 0)
        if await api.status(vm) == "stopped":
            await api.act(vm, "poweron")
            await api.until(vm, "running")
    (row,) = await api.get("machine_nics", filter=f"machine eq {vm.machine}", fields="stats#rxbps as rxbps")
    assert row == {"rxbps": 0}
    row = await api.get(f"machine_drives/{drive}", fields="stats[reads,writes] as stats")
    assert row == {"stats": {"reads": 0, "writes": 0}}


async def test_nobody_waits_for_machines_that_do_not_answer(served: Served) -> None:
    page = await served.parts.engine.instances.list(_system(), None, 10_000)
    some = list(page.items)[:1]
    asked: list[int] = []
    answers = asyncio.Event()

    async def ask(wanted: Sequence[Instance]) -> Mapping[InstanceId, DiskCounts]:
        asked.append(len(wanted))
        await answers.wait()
        return {one.id: DiskCounts(reads=1) for one in wanted}

    known = Asked(ask)
    begin = time.monotonic()
    assert await known.of(some) == {}
    assert await known.of(some) == {}  # it is asked once
    assert time.monotonic() - begin > 2  # so long is waited, not for ever
    answers.set()
    found = await known.of(some)
    assert found[some[0].id][0][1] == DiskCounts(reads=1)
    await known.of(some)
    assert asked == [1]
