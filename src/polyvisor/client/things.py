"""Volumes, images, hosts and operations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote

from polyvisor.client.errors import Refused, unreachable
from polyvisor.client.link import Link, Params, part
from polyvisor.wire import native as wire


class Volumes:
    """`key` is an id or a name."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, request: wire.CreateVolume, *, idempotency_key: str = "") -> wire.Volume:
        """A new volume with an empty file system."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self._link.ask("POST", "/volumes", wire.Volume, body=request, headers=headers, patience=None)

    async def upload(
        self, name: str, chunks: AsyncIterator[bytes], length: int, *, kind: str = "disk", pool: str = "",
        read_only: bool = False,
    ) -> wire.Volume:  # fmt: skip
        """A new volume of exactly those bytes, `length` of them."""
        params: Params = {"name": name, "kind": kind, "pool": pool, "read_only": read_only}
        headers = {"Content-Length": str(length)}
        return await self._link.ask(
            "PUT", "/media", wire.Volume, params=params, content=chunks, headers=headers, patience=None
        )

    async def pools(self) -> Sequence[wire.Pool]:
        """Where volumes can be."""
        return (await self._link.ask("GET", "/pools", wire.PoolList)).items

    async def list(self, limit: int = 500) -> AsyncIterator[wire.Volume]:
        """Every one, page after page."""
        cursor: str | None = None
        while True:
            params = {"cursor": cursor, "limit": limit}
            page = await self._link.ask("GET", "/volumes", wire.VolumePage, params=params)
            for volume in page.items:
                yield volume
            cursor = page.next
            if cursor is None:
                return

    async def get(self, key: str) -> wire.Volume:
        """One volume."""
        return await self._link.ask("GET", f"/volumes/{part(key)}", wire.Volume)

    async def resize(self, key: str, size: int | str) -> wire.Volume:
        """Grow it."""
        body = wire.ResizeVolume(size=size)
        return await self._link.ask("PATCH", f"/volumes/{part(key)}", wire.Volume, body=body, patience=None)

    async def delete(self, key: str) -> None:
        """Delete it. Refused while it is attached."""
        await self._link.tell("DELETE", f"/volumes/{part(key)}")


class Images:
    """`name` is a name or a digest."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def list(self) -> list[wire.Image]:
        """Those that may be used."""
        return (await self._link.ask("GET", "/images", wire.ImageList)).items

    async def get(self, name: str) -> wire.Image:
        """One that is on the host."""
        return await self._link.ask("GET", f"/images/{quote(name, safe='/:@')}", wire.Image)

    async def pull(self, name: str) -> AsyncIterator[wire.PullProgress]:
        """Fetch it; the last thing said has the image. :raise Refused: also in the middle."""
        async with self._link.stream("POST", "/images/pull", body=wire.PullImage(name=name)) as answer:
            async for line in answer.aiter_lines():
                said = wire.PullProgress.model_validate_json(line)
                if said.error is not None:
                    raise Refused(wire.Problem(kind=said.error.kind, message=said.error.message))
                yield said
                if said.image is not None:
                    return
        raise unreachable("the connection ended before the image was there")

    async def take(self, name: str, chunks: AsyncIterator[bytes]) -> wire.Image:
        """Import an archive or a disk under a name."""
        return await self._link.ask("PUT", "/images", wire.Image, params={"name": name}, content=chunks, patience=None)

    async def delete(self, name: str) -> None:
        """Delete it. Refused while instances are made from it."""
        await self._link.tell("DELETE", f"/images/{quote(name, safe='/:@')}")


class Hosts:
    """What there is to run on."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def list(self) -> list[wire.Host]:
        """Every host."""
        return (await self._link.ask("GET", "/hosts", wire.HostList)).items

    async def nics(self) -> Sequence[wire.HostNic]:
        """Networks of the operator's that instances may have a NIC on."""
        return (await self._link.ask("GET", "/nics", wire.HostNicList)).items

    async def reclaim(self, request: wire.ReclaimMemory) -> wire.Reclaimed:
        """Let guests lend the host memory for a while."""
        return await self._link.ask("POST", "/hosts/reclaim", wire.Reclaimed, body=request)

    async def about(self) -> wire.About:
        """Who answers, and as whom we are known."""
        return await self._link.ask("GET", "/about", wire.About)


class Operations:
    """What was asked, newest first."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def list(self, instance: str | None = None, limit: int = 100) -> list[wire.Operation]:
        """The latest, of one instance or of all."""
        path = f"/instances/{part(instance)}/operations" if instance else "/operations"
        return (await self._link.ask("GET", path, wire.OperationList, params={"limit": limit})).items

    async def get(self, id: str) -> wire.Operation:
        """One operation."""
        return await self._link.ask("GET", f"/operations/{part(id)}", wire.Operation)
