"""Tasks: what is done to instances when its time has come."""

from __future__ import annotations

from polyvisor.client.link import Link, part
from polyvisor.wire import native as wire


class Tasks:
    """`key` is an id or a name."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, request: wire.CreateTask) -> wire.Task:
        """A new one."""
        return await self._link.ask("POST", "/tasks", wire.Task, body=request)

    async def list(self) -> list[wire.Task]:
        """All that the caller sees, oldest first."""
        return (await self._link.ask("GET", "/tasks", wire.TaskList)).items

    async def get(self, key: str) -> wire.Task:
        """One task."""
        return await self._link.ask("GET", _of(key), wire.Task)

    async def update(self, key: str, request: wire.UpdateTask) -> wire.Task:
        """Enabled, disabled, described."""
        return await self._link.ask("PATCH", _of(key), wire.Task, body=request)

    async def run(self, key: str) -> wire.Task:
        """Do it now."""
        return await self._link.ask("POST", f"{_of(key)}/run", wire.Task)

    async def delete(self, key: str) -> None:
        """It is not done any more."""
        await self._link.tell("DELETE", _of(key))


def _of(key: str) -> str:
    return f"/tasks/{part(key)}"
