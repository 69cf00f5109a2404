"""SSH keys in a store: kept whole, numbered for good, gone with their owners."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from contract.store.things import NOW, P, Q, projects
from polyvisor.model.faults import NotFound
from polyvisor.model.foreign import Foreign
from polyvisor.model.identity import User
from polyvisor.model.ids import UserId, mint
from polyvisor.model.principal import Action
from polyvisor.model.ssh import SshKey
from polyvisor.model.task import Owner
from polyvisor.store import SqlStore

KEY = SshKey(Owner("key", P), "SHA256:one", "ssh-ed25519 AAAA", "me@here", NOW)


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


async def test_a_key_is_kept_as_it_is(store: SqlStore) -> None:
    owner = Owner("key", Q, operator=True, actions=frozenset({Action.INSTANCE_INTERACT}))
    other = replace(KEY, owner=owner, expires=NOW + timedelta(days=1), comment="é")
    async with store.write() as unit:
        numbers = [await unit.ssh_keys.add(key) for key in (KEY, other)]
        await unit.ssh_keys.add(replace(KEY, fingerprint="SHA256:two"))
    assert numbers[0] > 0 and numbers[1] > numbers[0]
    async with store.read() as unit:
        found = await unit.ssh_keys.called("SHA256:one")
        assert found == [replace(KEY, number=numbers[0]), replace(other, number=numbers[1])]
        assert len(await unit.ssh_keys.all()) == 3
        assert await unit.ssh_keys.called("SHA256:three") == []


async def test_a_number_is_never_given_again(store: SqlStore) -> None:
    async with store.write() as unit:
        number = await unit.ssh_keys.add(KEY)
        await unit.ssh_keys.remove(number)
        assert await unit.ssh_keys.add(KEY) > number
        with pytest.raises(NotFound):
            await unit.ssh_keys.remove(number)


async def test_a_key_goes_with_its_user(store: SqlStore) -> None:
    user = User(UserId(mint()), "somebody", "x", P, False, NOW)
    async with store.write() as unit:
        await unit.identities.add_user(user)
        await unit.ssh_keys.add(replace(KEY, owner=Owner(user.name, P, user.id)))
        await unit.identities.remove_user(user.id, NOW)
        assert await unit.ssh_keys.all() == []
        with pytest.raises(NotFound):
            await unit.ssh_keys.add(replace(KEY, owner=Owner(user.name, P, user.id)))


async def test_an_alias_is_found_whosever_it_is(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.foreigners.put(P, "thing", Foreign("one", alias=("vm", "called")))
        await unit.foreigners.put(P, "thing", Foreign("two", alias=("vm", "called")))
        await unit.foreigners.put(Q, "other", Foreign("one", alias=("machine", "called")))
    async with store.read() as unit:
        assert await unit.foreigners.anywhere(None, "called") == ["other", "thing"]
        assert await unit.foreigners.anywhere([P], "called") == ["thing"]
        assert await unit.foreigners.anywhere([], "called") == []
