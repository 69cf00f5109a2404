"""Vaults, what is in them, and the requests that were seen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from polyvisor.model.ids import CredentialId, ProjectId, ServiceId, VaultId
from polyvisor.model.vault import MOST_REQUESTS, Vault, VaultCredential, VaultEntry, VaultRequest
from polyvisor.store import codec
from polyvisor.store.tables import vault_credentials, vault_requests, vault_services, vaults
from polyvisor.store.work import Work, owned

_VAULT, _CREDENTIAL, _SERVICE = codec.Codec(Vault), codec.Codec(VaultCredential), codec.Codec(VaultEntry)
_v, _c, _s, _r = vaults.c, vault_credentials.c, vault_services.c, vault_requests.c


class SqlVaults:
    """See `ports.vaults.VaultRecords`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def add(self, vault: Vault) -> None:
        """Insert."""
        row = {"id": vault.id, "project": vault.project, "name": vault.name, "record": _VAULT.encode(vault)}
        await self._work.insert(insert(vaults).values(row), vault.name, missing=vault.project)

    async def save(self, vault: Vault) -> None:
        """Write name and record."""
        query = update(vaults).where(_v.id == vault.id).values(name=vault.name, record=_VAULT.encode(vault))
        await self._work.revise(query, vault.id, "vault")

    async def remove(self, id: VaultId) -> None:
        """Delete."""
        await self._work.revise(delete(vaults).where(_v.id == id), id, "vault")

    async def of(self, projects: Collection[ProjectId] | None) -> Sequence[Vault]:
        """Those of some projects."""
        query = select(_v.record).where(owned(_v.project, projects)).order_by(_v.number)
        return [_VAULT.decode(row.record) for row in await self._work.rows(query)]

    async def those(self, ids: Collection[VaultId]) -> Sequence[Vault]:
        """By id."""
        if not ids:
            return []
        query = select(_v.record).where(_v.id.in_(list(ids))).order_by(_v.number)
        return [_VAULT.decode(row.record) for row in await self._work.rows(query)]

    # -- credentials ---------------------------------------------------------------------------------------------

    async def put_in(self, credential: VaultCredential) -> None:
        """Insert."""
        row = {"id": credential.id, "vault": credential.vault, "name": credential.name}
        query = insert(vault_credentials).values(record=_CREDENTIAL.encode(credential), **row)
        await self._work.insert(query, credential.name, missing=credential.vault)

    async def change(self, credential: VaultCredential) -> None:
        """Write the record."""
        query = update(vault_credentials).where(_c.id == credential.id, _c.vault == credential.vault)
        await self._work.revise(query.values(record=_CREDENTIAL.encode(credential)), credential.id, "credential")

    async def take_out(self, vault: VaultId, id: CredentialId) -> None:
        """Delete."""
        query = delete(vault_credentials).where(_c.id == id, _c.vault == vault)
        await self._work.revise(query, id, "credential")

    async def credentials(
        self, ids: Collection[VaultId], names: Collection[str] | None = None
    ) -> Sequence[VaultCredential]:
        """Of some vaults, and some names."""
        query = select(_c.record).where(_c.vault.in_(list(ids))).order_by(_c.number)
        if names is not None:
            query = query.where(_c.name.in_(list(names)))
        return [_CREDENTIAL.decode(row.record) for row in await self._work.rows(query)]

    # -- services ------------------------------------------------------------------------------------------------

    async def serve(self, service: VaultEntry) -> None:
        """Insert."""
        row = {"id": service.id, "vault": service.vault, "host": service.host, "record": _SERVICE.encode(service)}
        await self._work.insert(insert(vault_services).values(row), service.host, missing=service.vault)

    async def unserve(self, vault: VaultId, id: ServiceId) -> None:
        """Delete."""
        await self._work.revise(delete(vault_services).where(_s.id == id, _s.vault == vault), id, "service")

    async def services(self, ids: Collection[VaultId], hosts: Collection[str] | None = None) -> Sequence[VaultEntry]:
        """Of some vaults, and some hosts."""
        query = select(_s.record).where(_s.vault.in_(list(ids))).order_by(_s.number)
        if hosts is not None:
            query = query.where(_s.host.in_(list(hosts)))
        return [_SERVICE.decode(row.record) for row in await self._work.rows(query)]

    # -- requests ------------------------------------------------------------------------------------------------

    async def note(self, seen: Sequence[VaultRequest]) -> None:
        """Insert, and forget the oldest of those that are too many."""
        ids = {one.vault for one in seen}
        there = {row.id for row in await self._work.rows(select(_v.id).where(_v.id.in_(list(ids))))}
        rows: list[dict[str, Any]] = [
            {"vault": one.vault, "at": codec.micros(one.at), "host": one.host, "status": one.status,
             "credential": one.credential}
            for one in seen if one.vault in there
        ]  # fmt: skip
        if rows:
            await self._work.add(insert(vault_requests), rows)
        for id in there:
            kept = select(_r.number).where(_r.vault == id).order_by(_r.number.desc()).limit(1).offset(MOST_REQUESTS)
            last = await self._work.value(select(func.max(kept.subquery().c.number)))
            if last is not None:
                await self._work.change(delete(vault_requests).where(_r.vault == id, _r.number <= last))

    async def requests(self, id: VaultId, limit: int) -> Sequence[VaultRequest]:
        """The latest."""
        query = select(_r.vault, _r.at, _r.host, _r.status, _r.credential).where(_r.vault == id)
        rows = await self._work.rows(query.order_by(_r.number.desc()).limit(limit))
        return [VaultRequest(VaultId(r.vault), codec.moment(r.at), r.host, r.status, r.credential) for r in rows]
