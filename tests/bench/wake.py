"""Wake on traffic: HTTP requests, each to a machine in standby or just leaving it. None may be lost.

In user mode to a host port, in bridge mode to the machine's own address, in network namespaces made for it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

from bench.table import Bound, Row
from polyvisor.client import Client
from polyvisor.wire.native import CreateInstance, ExecRequest, PortRequest, StandbyRequest
from real.conftest import share
from real.namespaces import ground
from serving import Server

EACH_TIME = 10  # requests to a machine that sleeps: one wakes it, the others come while it goes on
BURSTS = 10  # for each of the runs asked for: 1,000 requests at the usual ten
SPREAD = 0.25  # seconds in which they come: it has just gone on when the last one does
_ASK = b"GET / HTTP/1.0\r\n\r\n"
_PORT = 8000
_SERVE = f"mkdir -p /w; echo hello > /w/index.html; httpd -p {_PORT} -h /w"
_LIMIT = 60.0


async def bridged(base: Path, data: Path, runs: int) -> list[Row]:
    """The same in bridge mode, by a server of its own on `data`, with what guests boot from of the one on `base`."""
    share(base, data)
    with ground() as made, made.host.inside():
        server = Server(data, "--network", "bridge", prefix=made.host.prefix).start()
        try:
            async with server.client() as client:
                return await wake(client, runs, bridge=True)
        finally:
            server.stop()


async def wake(client: Client, runs: int, *, bridge: bool = False) -> list[Row]:
    """One machine again and again. The baseline is the same request while it runs and nobody has to be woken."""
    made = await client.instances.create(
        CreateInstance(
            image="busybox", name="w" + secrets.token_hex(5), memory="128M",
            ports=[] if bridge else [PortRequest(guest=_PORT)], standby=StandbyRequest(after=3600),
        ),
        wait="ready", timeout=60,
    )  # fmt: skip
    try:
        async with client.instances.exec(made.id, ExecRequest(argv=["sh", "-c", _SERVE])) as process:
            assert (await process.result()).code == 0
        assert made.address
        where = (made.address, _PORT) if bridge else ("127.0.0.1", made.ports[0].host)
        awake, took, failed = [], [], []
        for _ in range(runs * BURSTS):
            awake.append(await _request(where, 0.0))
            await client.instances.standby(made.id)
            asked = (_request(where, SPREAD * n / EACH_TIME) for n in range(EACH_TIME))
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(answer, BaseException):
                    failed.append(answer)
                else:
                    took.append(answer)
            await client.instances.wait(made.id, ["ready"], timeout=60)
        lost = {"failures": [repr(one) for one in failed[:10]]}
        mode = "bridge: " if bridge else ""
        return [
            Row(
                f"{mode}HTTP to a machine in standby or just leaving it",
                "ms",
                took,
                awake,
                "the same, of one that runs",
            ),
            Row(
                f"{mode}HTTP requests to such that were lost",
                "",
                [float(len(failed))],
                bound=Bound("p50", 0.0),
                more=lost,
            ),
        ]
    finally:
        await client.instances.delete(made.id, force=True)


async def _request(where: tuple[str, int], after: float) -> float:
    """Milliseconds from the connect to the end of the answer. :raise OSError, TimeoutError, AssertionError: lost."""
    await asyncio.sleep(after)
    begun = time.monotonic()
    async with asyncio.timeout(_LIMIT):
        reader, writer = await asyncio.open_connection(*where)
        try:
            writer.write(_ASK)
            answer = await reader.read()
        finally:
            writer.close()
    assert answer.endswith(b"hello\n"), answer
    return (time.monotonic() - begun) * 1000
