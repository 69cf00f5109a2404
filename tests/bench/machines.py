"""Real machines through the API, each beside one run by hand, pair by pair."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.naive import Naive
from bench.raw import HandRun, Twin
from bench.table import Bound, Row
from polyvisor.client import Client
from polyvisor.host.hypervisor.qemu.qmp import Qmp
from polyvisor.host.paths import QMP_SOCKET
from polyvisor.model.guest import Exec, Exit
from polyvisor.wire.native import CreateInstance, ExecRequest
from serving import Server

TAX = Bound("p50 difference", 150.0)
_SETTLED = Bound("p99", 5_000.0)
_TRUE = ["true"]


@dataclass
class Times:
    """Milliseconds of each step, one figure per round."""

    of: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, since: float) -> float:
        """Note how long it took; the time now."""
        now = time.monotonic()
        self.of.setdefault(name, []).append((now - since) * 1000)
        return now


async def lifecycle(client: Client, twin: Twin, naive: Naive, runs: int) -> list[Row]:
    """Create, first command, stop, delete; the same by hand; and a plain hand-run VM's boot."""
    ours, raw, plain = Times(), Times(), Times()

    async def bare() -> None:
        begun = time.monotonic()
        await asyncio.to_thread(naive.boot)
        plain.add("ready", begun)

    await _once(client, Times())  # caches are warm for all sides
    sides: list[Callable[[], Awaitable[None]]] = [
        lambda: _once(client, ours),
        lambda: _once_by_hand(twin, raw),
        bare,
    ]
    for turn in range(runs):
        for side in sides if turn % 2 == 0 else reversed(sides):
            await side()
    hand = "the same QEMU run by hand"
    return [
        Row("create → ready", "ms", ours.of["ready"], raw.of["ready"], hand, TAX),
        Row("create → QEMU's process exists", "ms", ours.of["started"]),
        Row("raw boot → agent's first answer", "ms", raw.of["ready"], plain.of["ready"], "bzImage, gzip, no tuning"),
        Row("create → first exec answered", "ms", ours.of["first"], raw.of["first"], hand),
        Row("graceful stop", "ms", ours.of["stop"], raw.of["stop"], hand),
        Row("delete", "ms", ours.of["delete"]),
    ]


async def _once(client: Client, times: Times) -> None:
    begun, asked = time.monotonic(), time.time()
    request = CreateInstance(image="busybox", name="b" + secrets.token_hex(5))
    made = await client.instances.create(request, wait="ready", timeout=60)
    times.add("ready", begun)
    assert made.started
    times.of.setdefault("started", []).append((made.started.timestamp() - asked) * 1000)
    try:
        await true(client, made.id)
        now = times.add("first", begun)
        await client.instances.stop(made.id)
        now = times.add("stop", now)
        await client.instances.delete(made.id)
        times.add("delete", now)
    except BaseException:
        await client.instances.delete(made.id, force=True)
        raise


async def _once_by_hand(twin: Twin, times: Times) -> None:
    async with twin.run() as run:
        times.of.setdefault("ready", []).append(run.seconds * 1000)
        begun = time.monotonic() - run.seconds
        await true_by_hand(run)
        now = times.add("first", begun)
        qmp = await Qmp.connect(run.folder / QMP_SOCKET, 5)
        try:
            await run.agent.shutdown()
            while (await qmp.ask("query-status"))["status"] != "shutdown":
                await asyncio.sleep(0.001)
        finally:
            await qmp.close()
        run.process.kill()
        run.process.wait()
        times.add("stop", now)


async def true(client: Client, id: str) -> None:
    """The least that a guest can be asked to run."""
    async with client.instances.exec(id, ExecRequest(argv=_TRUE)) as process:
        result = await process.result()
    assert result.code == 0, result


async def true_by_hand(run: HandRun) -> None:
    """The same in a machine that no server holds."""
    process = await run.agent.execute(Exec(tuple(_TRUE)))
    try:
        while not isinstance(said := await process.read(), Exit):
            pass
        assert said.code == 0, said
    finally:
        await process.close()


async def round_trips(client: Client, twin: Twin, runs: int) -> list[Row]:
    """Control socket, agent, and a command that does nothing."""
    made = await client.instances.create(CreateInstance(image="busybox"), wait="ready", timeout=60)
    times, beside = Times(), Times()
    try:
        async with twin.run() as run:
            qmp = await Qmp.connect(run.folder / QMP_SOCKET, 5)
            for _ in range(20 * runs):
                begun = time.monotonic()
                await qmp.ask("query-status")
                now = times.add("qmp", begun)
                await run.agent.ping()
                times.add("ping", now)
            await qmp.close()
            beside.of["qmp"] = await asyncio.to_thread(_bare_qmp, run.folder / QMP_SOCKET, 20 * runs)
            for turn in range(5 * runs + 2):
                begun = time.monotonic()
                await true(client, made.id)
                now = times.add("exec", begun)
                await true_by_hand(run)
                beside.add("exec", now)
                if turn < 2:  # the guest's code is translated by then
                    times.of["exec"].clear()
                    beside.of["exec"].clear()
    finally:
        await client.instances.delete(made.id, force=True)
    return [
        Row("QMP round trip", "ms", times.of["qmp"], beside.of["qmp"], "the same words over a bare socket"),
        Row("agent ping", "ms", times.of["ping"]),
        Row("exec of true", "ms", times.of["exec"], beside.of["exec"], "the agent asked directly"),
    ]


def _bare_qmp(path: Path, count: int) -> list[float]:
    """Round trips without a client library."""
    import socket

    found = []
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rwb", buffering=0) as lines:
        sock.connect(str(path))
        lines.readline()
        for words in (b"qmp_capabilities", *[b"query-status"] * count):
            begun = time.monotonic()
            lines.write(b'{"execute": "%s"}\n' % words)
            while b'"return"' not in lines.readline():
                pass
            found.append((time.monotonic() - begun) * 1000)
    return found[1:]


async def adopt(server: Server, machines: int, runs: int) -> list[Row]:
    """Starts with machines to take over beside starts with none, of the same server on the same data.

    And how long after a start that follows a kill -9 every machine has answered a command.
    """
    empty = [_start_again(server) for _ in range(runs)]
    async with server.client() as client:
        request = CreateInstance(image="busybox")
        ids = [(await client.instances.create(request, wait="ready")).id for _ in range(machines)]
    full = [_start_again(server) for _ in range(runs)]
    answered = [await _killed(server, ids) for _ in range(runs)]
    async with server.client() as client:
        for id in ids:
            await client.instances.delete(id, force=True)
    return [
        Row(f"start with {machines} VMs to adopt", "ms", full, empty, "start with none"),
        Row(f"kill -9 and start → {machines} VMs have answered an exec", "ms", answered, bound=_SETTLED),
    ]


async def _killed(server: Server, ids: Sequence[str]) -> float:
    """Milliseconds from the ready line."""
    server.kill()
    server.start()
    begun = time.monotonic()
    async with server.client() as client:
        await asyncio.gather(*(true(client, id) for id in ids))
    return (time.monotonic() - begun) * 1000


def _start_again(server: Server) -> float:
    server.stop()
    begun = time.monotonic()
    server.start()
    return (time.monotonic() - begun) * 1000
