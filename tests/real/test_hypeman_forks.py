"""Many forks of one running instance at once, asked for by upstream's client."""

from __future__ import annotations

import asyncio

import pytest
from hypeman.types import Instance

from real.upstream import Machines

FORKS = 25
WHO = "hostname; cat /etc/machine-id; cat /sys/class/net/eth0/address; ip -4 addr show eth0 | awk '/inet/ {print $2}'"
BOOT = "cat /proc/sys/kernel/random/boot_id /dev/shm/marker; pidof sleep"
MARKED = "echo 0123456789abcdef0123456789abcdef > /etc/machine-id; echo of-the-source > /dev/shm/marker"


@pytest.mark.timeout(900)
async def test_twenty_five_forks_at_once_are_all_up_and_all_different(machines: Machines) -> None:
    sdk = machines.sdk
    source = await machines.make(size="128MB", cmd=["sleep", "3600"])
    await machines.say(source.id, MARKED)
    before = await machines.say(source.id, BOOT)

    async def fork(number: int) -> Instance:
        made = await sdk.instances.fork(source.id, name=f"{source.name}-{number}", from_running=True)
        return machines.also(made)

    made = await asyncio.gather(*(fork(number) for number in range(FORKS)))
    for one in made:
        await machines.until(one.id, "Running")
    found = [await sdk.instances.get(one.id) for one in (source, *made)]
    assert {one.state for one in found} == {"Running"}
    told = await asyncio.gather(*(machines.say(one.id, WHO) for one in found))
    rows = [text.split() for text in told]
    for column in zip(*rows, strict=True):  # host name, machine id, hardware address, IP address
        assert len(set(column)) == FORKS + 1, column
    for one, (hostname, _, mac, address) in zip(found, rows, strict=True):
        assert one.network is not None
        assert (hostname, mac, address.split("/")[0]) == (one.name, one.network.mac, one.network.ip)
    assert len({one.id for one in found}) == FORKS + 1
    assert set(await asyncio.gather(*(machines.say(one.id, BOOT) for one in found))) == {before}
    await machines.say(made[0].id, "echo mine > /dev/shm/marker")
    assert await machines.say(source.id, BOOT) == before  # the same run of the same workload
