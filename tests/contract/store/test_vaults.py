"""Vaults in a store: what is in them goes with them, and they with their projects."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from contract.store.things import NOW, P, Q, projects
from polyvisor.model.faults import Exists, NotFound
from polyvisor.model.ids import CredentialId, ServiceId, VaultId
from polyvisor.model.vault import (
    MOST_REQUESTS,
    Auth,
    AuthKind,
    Vault,
    VaultCredential,
    VaultEntry,
    VaultRequest,
)
from polyvisor.store import SqlStore

ONE, TWO = VaultId("vlt_one"), VaultId("vlt_two")
VAULT = Vault(ONE, P, "one", NOW, "é")
CREDENTIAL = VaultCredential(CredentialId("c"), ONE, "KEY", NOW, sealed="1:abc")
SERVICE = VaultEntry(ServiceId("s"), ONE, "*.example.com", Auth(AuthKind.CUSTOM, headers=(("A", "{{ KEY }}"),)), NOW)


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


async def test_a_vault_is_kept_as_it_is_with_what_is_in_it(store: SqlStore) -> None:
    other = replace(VAULT, id=TWO, project=Q)
    async with store.write() as unit:
        await unit.vaults.add(VAULT)
        await unit.vaults.add(other)
        await unit.vaults.put_in(CREDENTIAL)
        await unit.vaults.serve(SERVICE)
    async with store.read() as unit:
        assert await unit.vaults.of(None) == [VAULT, other]
        assert await unit.vaults.of([Q]) == [other] == await unit.vaults.those([TWO])
        assert await unit.vaults.those([]) == [] == await unit.vaults.of([])
        assert await unit.vaults.credentials([ONE, TWO]) == [CREDENTIAL]
        assert await unit.vaults.services([ONE, TWO]) == [SERVICE]
        assert await unit.vaults.credentials([ONE], ["KEY", "ELSE"]) == [CREDENTIAL]
        assert await unit.vaults.services([ONE], ["a.example.com", "*.example.com"]) == [SERVICE]
        assert await unit.vaults.credentials([ONE], ["ELSE"]) == [] == await unit.vaults.credentials([ONE], [])
        assert await unit.vaults.services([ONE], ["a.example.com"]) == [] == await unit.vaults.services([ONE], [])
        assert await unit.vaults.credentials([TWO]) == [] == await unit.vaults.services([TWO])
    changed = replace(CREDENTIAL, sealed="1:other")
    async with store.write() as unit:
        await unit.vaults.change(changed)
        await unit.vaults.save(replace(VAULT, name="else"))
        assert await unit.vaults.credentials([ONE]) == [changed]
        for wrong in (replace(CREDENTIAL, vault=TWO), replace(CREDENTIAL, id=CredentialId("none"))):
            with pytest.raises(NotFound):
                await unit.vaults.change(wrong)
            with pytest.raises(NotFound):
                await unit.vaults.take_out(wrong.vault, wrong.id)
        with pytest.raises(NotFound):
            await unit.vaults.unserve(TWO, SERVICE.id)
        await unit.vaults.remove(ONE)
        assert await unit.vaults.credentials([ONE]) == [] == await unit.vaults.services([ONE])
        with pytest.raises(NotFound):
            await unit.vaults.remove(ONE)


async def test_names_are_one_vaults_in_a_project_and_one_things_in_a_vault(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.vaults.add(VAULT)
        await unit.vaults.put_in(CREDENTIAL)
        await unit.vaults.serve(SERVICE)
        with pytest.raises(Exists, match="name"):
            await unit.vaults.add(replace(VAULT, id=TWO))
        with pytest.raises(Exists, match="name"):
            await unit.vaults.put_in(replace(CREDENTIAL, id=CredentialId("d")))
        with pytest.raises(Exists, match="host"):
            await unit.vaults.serve(replace(SERVICE, id=ServiceId("t")))
        with pytest.raises(NotFound):
            await unit.vaults.put_in(replace(CREDENTIAL, id=CredentialId("d"), vault=TWO))


async def test_the_latest_requests_of_each_vault_stay(store: SqlStore) -> None:
    def seen(vault: VaultId, number: int) -> VaultRequest:
        return VaultRequest(vault, NOW + timedelta(seconds=number), "a.example.com", number, "KEY")

    async with store.write() as unit:
        await unit.vaults.add(VAULT)
        await unit.vaults.add(replace(VAULT, id=TWO, project=Q))
        await unit.vaults.note([seen(ONE, number) for number in range(MOST_REQUESTS + 7)])
        await unit.vaults.note([seen(TWO, 1), seen(VaultId("vlt_gone"), 1), seen(ONE, 9999)])
        assert await unit.vaults.requests(ONE, 2) == [seen(ONE, 9999), seen(ONE, MOST_REQUESTS + 6)]
        found = await unit.vaults.requests(ONE, 5000)
        assert len(found) == MOST_REQUESTS and found[-1] == seen(ONE, 8)
        assert await unit.vaults.requests(TWO, 5) == [seen(TWO, 1)]
