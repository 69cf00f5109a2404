"""Snapshots and their schedules."""

from __future__ import annotations

from collections.abc import AsyncIterator

from polyvisor.client.link import Link, Params, part
from polyvisor.wire import native as wire


class Snapshots:
    """`key` is an id or a name. They are taken, and gone back to, by verbs of `Instances`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def list(self, instance: str | None = None, limit: int = 500) -> AsyncIterator[wire.Snapshot]:
        """Every one, or those of one instance, page after page."""
        path = f"/instances/{part(instance)}/snapshots" if instance else "/snapshots"
        cursor: str | None = None
        while True:
            params: Params = {"cursor": cursor, "limit": limit}
            page = await self._link.ask("GET", path, wire.SnapshotPage, params=params)
            for snapshot in page.items:
                yield snapshot
            cursor = page.next
            if cursor is None:
                return

    async def get(self, key: str) -> wire.Snapshot:
        """One snapshot."""
        return await self._link.ask("GET", f"/snapshots/{part(key)}", wire.Snapshot)

    async def delete(self, key: str) -> None:
        """Delete it. Instances that were made from it stay."""
        await self._link.tell("DELETE", f"/snapshots/{part(key)}", patience=None)


class Schedules:
    """At most one for an instance; `key` is the instance's id or name."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def set(self, key: str, request: wire.SetSchedule) -> wire.Schedule:
        """A new one, or another in its place."""
        return await self._link.ask("PUT", _of(key), wire.Schedule, body=request)

    async def get(self, key: str) -> wire.Schedule:
        """The instance's schedule."""
        return await self._link.ask("GET", _of(key), wire.Schedule)

    async def delete(self, key: str) -> None:
        """Take no more snapshots by the clock."""
        await self._link.tell("DELETE", _of(key))


def _of(key: str) -> str:
    return f"/instances/{part(key)}/schedule"


class Templates:
    """`key` is an id or a name."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, request: wire.CreateTemplate) -> wire.Template:
        """Boot a machine once and keep its memory; answered when it is ready."""
        return await self._link.ask("POST", "/templates", wire.Template, body=request, patience=None)

    async def list(self) -> list[wire.Template]:
        """Those that may be used, oldest first."""
        return (await self._link.ask("GET", "/templates", wire.TemplateList)).items

    async def delete(self, key: str) -> None:
        """Delete it. Instances that were made of it stay."""
        await self._link.tell("DELETE", f"/templates/{part(key)}")
