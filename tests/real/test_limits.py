"""A limit of a disk's speed, for as long as the machine is there and whatever its disk is by then.

Only lower bounds are asserted: a loaded machine makes nothing faster.
"""

from __future__ import annotations

from polyvisor.client import Client
from polyvisor.wire.native import CreateSnapshot, Instance
from real.guests import Guests, sh

RATE, SIZE = 2, 10  # MiB a second, MiB
WRITE = f"""s=$(cut -d. -f1 /proc/uptime); dd if=/dev/zero of=/{{}} bs=1M count={SIZE} conv=fsync 2>/dev/null
e=$(cut -d. -f1 /proc/uptime); echo $((e - s))"""


async def seconds(client: Client, guest: Instance, file: str) -> int:
    """How long it takes a guest to write."""
    return int(await sh(client, guest.id, WRITE.format(file)))


async def test_a_disk_is_as_slow_as_was_said(client: Client, guests: Guests) -> None:
    slow, least = await guests.boot(disk_rate=f"{RATE}M"), SIZE / RATE - 1.5
    assert await seconds(client, slow, "a") >= least
    await client.instances.standby(slow.id)
    await client.instances.start(slow.id, wait="ready")
    assert await seconds(client, slow, "b") >= least
    snapshot = await client.instances.snapshot(slow.id, CreateSnapshot(kind="full"))
    assert await seconds(client, slow, "c") >= least  # onto an overlay that it was switched to
    fork = await guests.boot(None, snapshot=snapshot.id)
    assert await seconds(client, fork, "d") >= least
    free = await guests.boot(None, snapshot=snapshot.id, disk_rate=0)
    assert await seconds(client, free, "d") < await seconds(client, fork, "e") + 60
    await client.snapshots.delete(snapshot.id)
