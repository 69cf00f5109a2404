"""Files in a guest, each way as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from polyvisor.client.link import Link, part
from polyvisor.wire import native as wire


class Files:
    """`path` is absolute in the guest."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def stat(self, key: str, path: str, *, follow: bool = True) -> wire.FileStat:
        """What lies there; absence is an answer."""
        return await self._link.ask("GET", _of(key, "stat"), wire.FileStat, params={"path": path, "follow": follow})

    def read(self, key: str, path: str) -> AsyncIterator[bytes]:
        """A file's bytes."""
        return self._bytes(_of(key, "files"), path)

    async def write(self, key: str, path: str, chunks: AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Write a file, whole or not at all."""
        params = {"path": path, "mode": f"{mode:04o}"}
        await self._link.tell("PUT", _of(key, "files"), params=params, content=chunks, patience=None)

    def read_tar(self, key: str, path: str) -> AsyncIterator[bytes]:
        """A file or directory as a tar stream; members are named from the last part of `path` on."""
        return self._bytes(_of(key, "archive"), path)

    async def write_tar(self, key: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Extract a tar stream below a directory."""
        await self._link.tell("PUT", _of(key, "archive"), params={"path": path}, content=chunks, patience=None)

    async def _bytes(self, route: str, path: str) -> AsyncIterator[bytes]:
        async with self._link.stream("GET", route, params={"path": path}) as answer:
            async for chunk in answer.aiter_bytes():
                yield chunk


def _of(key: str, what: str) -> str:
    return f"/instances/{part(key)}/{what}"
