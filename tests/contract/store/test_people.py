"""Users who are disabled, keys with a fence, and grants that follow from rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contract.store.things import NOW, P, Q, projects
from polyvisor.model.faults import NotFound
from polyvisor.model.fence import NO_FENCE, fence
from polyvisor.model.foreign import Row
from polyvisor.model.identity import ApiKey, Grant, User
from polyvisor.model.ids import KeyId, UserId, mint
from polyvisor.model.principal import Action
from polyvisor.store import SqlStore

ANN = User(UserId(mint()), "ann", "argon", P, False, NOW)


async def test_who_is_disabled_is_so_until_it_is_saved_again(store: SqlStore) -> None:
    await projects(store)
    async with store.write() as unit:
        made = await unit.identities.add_user(replace(ANN, disabled=True))
        assert made.disabled
        await unit.identities.save_user(replace(made, disabled=False))
        assert not (await unit.identities.user(made.id)).disabled


async def test_a_key_keeps_its_fence(store: SqlStore) -> None:
    await projects(store)
    here = fence(["10.0.0.0/8", "::1"], ["192.168.0.1"])
    key = ApiKey(KeyId(mint()), "k", P, "pv_", "digest", NOW, fence=here)
    async with store.write() as unit:
        await unit.identities.add_key(key)
        assert await unit.identities.key_by_digest("digest") == key
        changed = replace(key, name="other", fence=NO_FENCE, expires=NOW, scopes=frozenset({Action.HOST_VIEW}))
        await unit.identities.save_key(changed)
        assert list(await unit.identities.keys()) == [changed]
        with pytest.raises(NotFound):
            await unit.identities.save_key(replace(key, id=KeyId("nobody")))


async def test_what_follows_from_rows_is_a_grant_of_its_own(store: SqlStore) -> None:
    await projects(store)
    own = Grant(ANN.id, P, Action.HOST_VIEW)
    derived = replace(own, origin="d")
    async with store.write() as unit:
        ids = unit.identities
        await ids.add_user(ANN)
        assert await ids.put_grant(own)
        assert await ids.put_grant(derived)
        await ids.put_grant(Grant(ANN.id, Q, Action.HOST_VIEW, "e"))
        assert list(await ids.grants(ANN.id, P)) == [own, derived]
        assert list(await ids.derived("d")) == [derived]
        assert await ids.remove_grants(ANN.id, P) == 1
        assert list(await ids.grants(ANN.id, P)) == [derived]
        await ids.remove_derived(derived)
        await ids.remove_derived(derived)
        assert [grant.origin for grant in await ids.grants()] == ["e"]
        await ids.remove_user(ANN.id, NOW)
        assert list(await ids.grants()) == []


async def test_rows_about_users_and_keys_go_with_them(store: SqlStore) -> None:
    await projects(store)
    keys = [ApiKey(KeyId(mint()), "k", P, "pv_", name, NOW, user=ANN.id) for name in ("one", "two")]
    async with store.write() as unit:
        await unit.identities.add_user(ANN)
        for key in keys:
            await unit.identities.add_key(key)
        for subject in (ANN.id, keys[0].id, keys[1].id, ""):
            await unit.rows.add(Row("d", "k", f"row {subject}", P, subject))
        await unit.identities.remove_key(keys[0].id)
        assert [row.subject for row in await unit.rows.of("d", ["k"])] == [ANN.id, keys[1].id, ""]
        await unit.identities.remove_user(ANN.id, NOW)
        assert [row.subject for row in await unit.rows.of("d", ["k"])] == [""]
