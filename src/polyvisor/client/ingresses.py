"""Ingresses."""

from __future__ import annotations

from collections.abc import AsyncIterator

from polyvisor.client.link import Link, part
from polyvisor.wire import native as wire


class Ingresses:
    """`key` is an id or a name."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, request: wire.CreateIngress) -> wire.Ingress:
        """A new one, served when this returns."""
        return await self._link.ask("POST", "/ingresses", wire.Ingress, body=request)

    async def list(self, limit: int = 500) -> AsyncIterator[wire.Ingress]:
        """Every one, page after page."""
        cursor: str | None = None
        while True:
            params = {"cursor": cursor, "limit": limit}
            page = await self._link.ask("GET", "/ingresses", wire.IngressPage, params=params)
            for ingress in page.items:
                yield ingress
            cursor = page.next
            if cursor is None:
                return

    async def get(self, key: str) -> wire.Ingress:
        """One ingress."""
        return await self._link.ask("GET", f"/ingresses/{part(key)}", wire.Ingress)

    async def delete(self, key: str) -> None:
        """Lead nobody by it any more."""
        await self._link.tell("DELETE", f"/ingresses/{part(key)}")
