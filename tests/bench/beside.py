"""What users of libvirt know, beside ours: the same kernel, guest, QEMU and accelerator, in turn."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from bench.machines import Times, true
from bench.raw import Twin
from bench.standby import LARGE, SMALL, TOUCHED, fill
from bench.table import Row
from bench.virsh import Domain, Libvirt, libvirt
from polyvisor.client import Client
from polyvisor.wire.native import CreateInstance, ExecRequest

_WORDS = {SMALL: "128 MiB", LARGE: "1 GiB"}


async def beside(client: Client, twin: Twin, accelerator: str, runs: int) -> list[Row]:
    """Create, standby, restore."""
    with libvirt(twin, accelerator) as virt:
        await asyncio.to_thread(virt.ask, "domcapabilities --machine q35")  # it tries out QEMU once, and remembers
        rows = await _creates(client, virt, runs)
        async with AsyncExitStack() as stack:
            pairs = [(size, await stack.enter_async_context(_pair(client, virt, size))) for size in (SMALL, LARGE)]
            for _ in range(runs):
                for _, (id, domain, ours) in pairs:
                    await _sleep(client, id, ours)
                    await domain.save_and_restore()
            for size, (_, domain, ours) in pairs:
                name = _WORDS[size]
                rows += [
                    Row(f"libvirt: standby, {name}", "ms", ours.of["standby"], domain.took["save"], "virsh save"),
                    Row(f"libvirt: restore, {name} → running", "ms", ours.of["running"], domain.took["running"],
                        "virsh restore"),
                    Row(f"libvirt: restore, {name} → first exec", "ms", ours.of["answered"], domain.took["answered"],
                        "virsh restore, the agent asked directly"),
                ]  # fmt: skip
    return rows


async def _creates(client: Client, virt: Libvirt, runs: int) -> list[Row]:
    ours, theirs = Times(), Times()
    for turn in range(runs + 1):
        if turn == 1:  # caches are warm for both
            ours, theirs = Times(), Times()
        sides = (_ours(client, ours), _theirs(virt, theirs))
        for side in sides if turn % 2 == 0 else reversed(sides):
            await side
    start, ready = "libvirt: create → it runs", "libvirt: create → ready"
    return [
        Row(start, "ms", ours.of["runs"], theirs.of["runs"], "virsh define and start, its disk made before"),
        Row(ready, "ms", ours.of["ready"], theirs.of["ready"], "the same, until the agent's first answer"),
    ]


async def _ours(client: Client, times: Times) -> None:
    begun = time.monotonic()
    made = await client.instances.create(_request(256), wait="launched", timeout=60)
    try:
        times.add("runs", begun)
        await client.instances.wait(made.id, ["ready"], timeout=60)
        times.add("ready", begun)
    finally:
        await client.instances.delete(made.id, force=True)


async def _theirs(virt: Libvirt, times: Times) -> None:
    name = "c" + secrets.token_hex(4)
    file = await asyncio.to_thread(virt.prepare, name, 256)
    begun = time.monotonic()
    await asyncio.to_thread(virt.ask, f"define {file}", f"start {name}")
    times.add("runs", begun)
    agent = await virt.agent(name)
    times.add("ready", begun)
    await agent.close()
    await asyncio.to_thread(virt.forget, name)


async def _sleep(client: Client, id: str, times: Times) -> None:
    begun = time.monotonic()
    await client.instances.standby(id)
    begun = times.add("standby", begun)
    await client.instances.restore(id)
    times.add("running", begun)
    await true(client, id)
    times.add("answered", begun)


def _request(size: int) -> CreateInstance:
    return CreateInstance(image="busybox", name="l" + secrets.token_hex(5), memory=f"{size}M", template=False)


@asynccontextmanager
async def _pair(client: Client, virt: Libvirt, size: int) -> AsyncIterator[tuple[str, Domain, Times]]:
    """A machine of each that hold the same."""
    made = await client.instances.create(_request(size), wait="ready", timeout=60)
    try:
        domain = Domain(virt, f"s{size}")
        file = await asyncio.to_thread(virt.prepare, domain.name, size)
        await asyncio.to_thread(virt.ask, f"define {file}", f"start {domain.name}")
        words = ["sh", "-c", fill(TOUCHED[size])]
        async with client.instances.exec(made.id, ExecRequest(argv=words)) as process:
            result = await process.result()
            assert result.code == 0, result
        await domain.run(*words)
        yield made.id, domain, Times()
        await asyncio.to_thread(virt.forget, domain.name)
    finally:
        await client.instances.delete(made.id, force=True)
