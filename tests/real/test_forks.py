"""Forks of running machines: what the source was, with an identity of their own."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from polyvisor.client import Client
from polyvisor.wire.native import ForkInstance, Instance
from real.guests import Guests, sh
from real.test_killed import BOOT_ID
from real.test_memory import another_boot, counting

WHO = "hostname; cat /etc/machine-id; cat /sys/class/net/eth0/address; ip -4 addr show eth0 | awk '/inet/ {print $2}'; "
WHO += "head -c 8 /dev/urandom | hexdump -v -e '1/1 \"%02x\"'; echo"
MACHINE_ID = "echo 0123456789abcdef0123456789abcdef > /etc/machine-id; echo kept > /root/file; "
# Beside the number, when it was counted, by the clock that stands still with the machine, in hundredths of a second.
BEATS = "i=0; while :; do i=$((i+1)); read up idle < /proc/uptime; echo $i ${up%.*}${up#*.} >> /tmp/beats; "
BEATS += "echo $i > /tmp/count; sleep 0.25; done"


async def fork(client: Client, guests: Guests, source: str, name: str) -> Instance:
    """A fork that is discarded with the rest."""
    guests.also(name)
    return await client.instances.fork(source, ForkInstance(name=name), wait="ready")


async def who(client: Client, key: str) -> list[str]:
    """Hostname, machine id, MAC, address, random bytes."""
    return (await sh(client, key, WHO)).split()


async def beats(client: Client, key: str) -> list[tuple[int, int]]:
    """Every number that was counted, with its time."""
    lines = (await sh(client, key, "sed '$d' /tmp/beats")).splitlines()
    return [(int(number), int(time)) for number, time in map(str.split, lines)]


async def test_ten_forks_at_once_and_eight_generations_of_one_of_them(client: Client, guests: Guests) -> None:
    source = await guests.boot(memory="96M", command=["sh", "-c", MACHINE_ID + BEATS])
    boot, before = await sh(client, source.id, BOOT_ID), await counting(client, source.id)
    wide = await asyncio.gather(*(fork(client, guests, source.id, f"{source.name}-w{n}") for n in range(10)))
    deep = [wide[0]]
    for generation in range(1, 8):
        await sh(client, deep[-1].id, f"echo {generation} >> /root/file")
        seen = await counting(client, deep[-1].id)
        deep.append(await fork(client, guests, deep[-1].id, f"{source.name}-g{generation}"))
        assert seen <= await counting(client, deep[-1].id)
    everyone = [source, *wide, *deep[1:]]
    await they_are_themselves(client, everyone)
    for vm in everyone:
        assert await sh(client, vm.id, BOOT_ID) == boot
        assert before <= await counting(client, vm.id)
    for other in (source, *wide[1:]):
        assert await sh(client, other.id, "cat /root/file") == "kept"
    for generation, vm in enumerate(deep):
        written = [str(n) for n in range(1, min(generation + 1, 7) + 1)]
        assert await sh(client, vm.id, "cat /root/file") == "\n".join(["kept", *written])
    await it_never_skipped(client, source.id)
    last = deep[-1]
    await sh(client, last.id, "echo there > /root/other; sync")
    await client.instances.reset(last.id)
    assert await another_boot(client, last.id, boot) != boot
    assert await sh(client, last.id, "hostname; cat /root/other") == f"{last.name}\nthere"
    assert await sh(client, deep[-2].id, "cat /root/other 2>/dev/null || echo none") == "none"


async def they_are_themselves(client: Client, everyone: list[Instance]) -> None:
    """Nothing that tells machines apart is the same in two, and each is what its record says."""
    told = await asyncio.gather(*(who(client, vm.id) for vm in everyone))
    for column in zip(*told, strict=True):
        assert len(set(column)) == len(everyone), column
    for vm, (hostname, _, mac, address, _) in zip(everyone, told, strict=True):
        assert (hostname, mac, address.split("/")[0]) == (vm.name, vm.mac, vm.address)


async def it_never_skipped(client: Client, source: str) -> None:
    """No number is missing; by its own clock no beat was late by more than a busy host makes any of them late."""
    counted = await beats(client, source)
    assert [number for number, _ in counted] == list(range(1, len(counted) + 1))
    late = sorted(two - one for (_, one), (_, two) in pairwise(counted))
    assert late[-1] < 1000, late[-10:]
    again = await counting(client, source)
    await asyncio.sleep(0.3)
    assert await counting(client, source) > again
