"""Instances by upstream's own client of the Hypeman dialect, and short ways to say what is done with them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from hypeman import AsyncHypeman, NotFoundError
from hypeman.lib import exec_async
from hypeman.types import Instance

from serving import Server

IMAGE = "docker.io/library/busybox:latest"
SMALL = "256MB"


class Machines:
    """Instances of a test, made by upstream's client and gone after it."""

    def __init__(self, sdk: AsyncHypeman) -> None:
        self.sdk = sdk
        self._made: list[str] = []

    async def make(self, **fields: Any) -> Instance:
        """A new instance that is up, unless it is to have ended."""
        asked: dict[str, Any] = {"name": "h" + uuid.uuid4().hex[:12], "image": IMAGE, "size": SMALL, "vcpus": 1}
        made = await self.sdk.instances.create(**(asked | fields))
        self._made.append(made.id)
        await self.until(made.id, "Running")
        return await self.sdk.instances.get(made.id)

    async def until(self, id: str, state: Any) -> None:
        """Wait for a state; a loaded machine may take its time."""
        for _ in range(10):
            waited = await self.sdk.instances.wait(id, state=state, api_timeout="30s")
            if not waited.timed_out:
                return
        raise AssertionError(f"{id} is {waited.state}")

    def also(self, made: Instance) -> Instance:
        """One that was made otherwise goes as well."""
        self._made.append(made.id)
        return made

    async def say(self, id: str, script: str) -> str:
        """What a shell script says, stripped; it must end well."""
        ran = await exec_async(self.sdk, id, ["sh", "-c", script])
        assert ran.exit_code == 0, (script, ran)
        return ran.output.decode().strip()

    async def discard(self) -> None:
        """Delete them all."""
        while self._made:
            id = self._made.pop()
            try:
                await self.sdk.instances.delete(id, graceful_shutdown=False)
            except NotFoundError:
                continue


@asynccontextmanager
async def machines_of(server: Server) -> AsyncIterator[Machines]:
    """None yet, on that server."""
    async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits()) as http:
        sdk = AsyncHypeman(
            api_key=server.facts["api_key"], base_url=server.facts["url"], http_client=http, timeout=120, max_retries=0
        )
        made = Machines(sdk)
        yield made
        await made.discard()
