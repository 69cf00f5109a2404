"""SSH keys: read whole, found by fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Select, delete, insert, select

from polyvisor.model.ssh import SshKey
from polyvisor.store import codec
from polyvisor.store.tables import ssh_keys
from polyvisor.store.work import Work

_CODEC = codec.Codec(SshKey, remember=256)
_k = ssh_keys.c
_SELECT = select(_k.number, _k.record).order_by(_k.number)


class SqlSshKeys:
    """See `ports.store.SshKeys`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def add(self, key: SshKey) -> int:
        """Insert."""
        row = {"project": key.owner.project, "user": key.owner.user, "fingerprint": key.fingerprint}
        query = insert(ssh_keys).values(record=_CODEC.encode(key), **row)
        return await self._work.insert(query, key.fingerprint, missing=key.owner.user or key.owner.project)

    async def all(self) -> Sequence[SshKey]:
        """Oldest first."""
        return await self._those(_SELECT)

    async def called(self, fingerprint: str) -> Sequence[SshKey]:
        """Those with that fingerprint."""
        return await self._those(_SELECT.where(_k.fingerprint == fingerprint))

    async def remove(self, number: int) -> None:
        """Delete."""
        await self._work.revise(delete(ssh_keys).where(_k.number == number), str(number), "SSH key")

    async def _those(self, query: Select[Any]) -> Sequence[SshKey]:
        return [replace(_CODEC.decode(row.record), number=row.number) for row in await self._work.rows(query)]
