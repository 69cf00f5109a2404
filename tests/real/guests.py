"""Instances of a test, and short ways to say what is done in them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from polyvisor.client import Client
from polyvisor.wire.native import CreateInstance, ExecRequest, ExecResult, Instance
from polyvisor.wire.streams import STDOUT
from serving import Server


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command said and how it ended."""

    out: bytes
    err: bytes
    result: ExecResult

    @property
    def code(self) -> int | None:
        """Its exit code."""
        return self.result.code


async def run(client: Client, key: str, *argv: str, stdin: bytes = b"", **more: Any) -> Ran:
    """Run a command in a guest to its end."""
    said: dict[bool, list[bytes]] = {True: [], False: []}
    async with client.instances.exec(key, ExecRequest(argv=list(argv), **more)) as process:
        if stdin:
            await process.write(stdin)
        await process.eof()
        async for output in process:
            said[output.channel == STDOUT].append(output.data)
        return Ran(b"".join(said[True]), b"".join(said[False]), await process.result())


async def sh(client: Client, key: str, script: str, **more: Any) -> str:
    """What a shell script says, stripped; it must end well."""
    ran = await run(client, key, "sh", "-c", script, **more)
    assert ran.code == 0, (script, ran)
    return ran.out.decode().strip()


class Guests:
    """Instances that are discarded together."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._made: list[str] = []

    async def boot(self, image: str | None = "busybox", **fields: Any) -> Instance:
        """A new instance whose agent answers, or whose workload has ended by then."""
        return await self.make(image, "ready", **fields)

    async def make(self, image: str | None = "busybox", wait: Any = "accepted", **fields: Any) -> Instance:
        """A new instance."""
        timeout = fields.pop("timeout", 120.0)
        name = fields.pop("name", "t" + uuid.uuid4().hex[:10])
        self._made.append(name)
        request = CreateInstance(image=image, name=name, **fields)
        return await self.client.instances.create(request, wait=wait, timeout=timeout)

    def also(self, name: str) -> None:
        """One that was made otherwise is discarded as well."""
        self._made.append(name)

    async def discard(self) -> None:
        """Delete them all."""
        names = set(self._made)
        async for instance in self.client.instances.list():
            if instance.name in names:
                await self.client.instances.delete(instance.id, force=True)


def make_boot_files(server: Server) -> None:
    """Kernel and the like, which a server in a namespace of its own could not fetch: shared with it."""
    with lasting(server):
        pass


@contextmanager
def lasting(server: Server, image: str = "busybox", **fields: Any) -> Iterator[str]:
    """The id of a guest that outlives one test."""

    async def boot() -> str:
        async with server.client() as client:
            return (await Guests(client).boot(image, **fields)).id

    async def discard(id: str) -> None:
        async with server.client() as client:
            await client.instances.delete(id, force=True)

    id = asyncio.run(boot())
    yield id
    asyncio.run(discard(id))
