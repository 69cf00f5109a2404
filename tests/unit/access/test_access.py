"""Who may do what to whose things, and how credentials are known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from polyvisor.access.credentials import Doorkeeper, hash_password, key_digest, new_key
from polyvisor.access.grants import permit, require, require_operator, scope
from polyvisor.model.faults import Forbidden, NotFound, Unauthenticated
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import Action, Credential, Principal, Project, User
from polyvisor.store import SqlStore, open_store

NOW = datetime(2026, 3, 4, tzinfo=UTC)
MINE, THEIRS = ProjectId("p" * 24), ProjectId("q" * 24)


@pytest.fixture
async def store() -> AsyncIterator[SqlStore]:
    """With a project."""
    opened = await open_store("sqlite://")
    async with opened.write() as unit:
        await unit.identities.add_project(Project(MINE, "mine", NOW))
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("action", "granted", "owner", "operator"), list(product(Action, Action, (MINE, THEIRS), (True, False)))
)
def test_a_thing_is_open_to_its_project_and_the_operator_as_far_as_granted(
    action: Action, granted: Action, owner: ProjectId, operator: bool
) -> None:
    who = Principal("who", MINE, frozenset({granted}), operator)
    if owner != MINE and not operator:
        with pytest.raises(NotFound) as refused:
            permit(who, action, owner, "it")
        assert refused.value.subject == "it"
    elif action is not granted:
        with pytest.raises(Forbidden):
            permit(who, action, owner, "it")
    else:
        permit(who, action, owner, "it")


def test_the_operator_sees_everything_and_is_alone_in_that() -> None:
    tenant, operator = (Principal("x", MINE, frozenset(Action), op) for op in (False, True))
    assert scope(tenant) == MINE
    assert scope(operator) is None
    require_operator(operator)
    with pytest.raises(Forbidden):
        require_operator(tenant)
    with pytest.raises(Forbidden):
        require(Principal("y", MINE, frozenset()), Action.VIEW)


async def test_a_key_is_known_by_its_hash_until_it_expires(store: SqlStore) -> None:
    key, record = new_key("ci", MINE, NOW)
    assert key not in repr(record)
    assert record.digest == key_digest(key)
    now = NOW
    door = Doorkeeper(store, lambda: now)
    async with store.write() as unit:
        await unit.identities.add_key(replace(record, expires=NOW + timedelta(hours=1)))
    found = await door.authenticate(Credential(key=key))
    assert (found.name, found.project, found.operator) == ("ci", MINE, False)
    now = NOW + timedelta(hours=1)
    with pytest.raises(Unauthenticated):
        await door.authenticate(Credential(key=key))


async def test_a_password_opens_for_its_user_only(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.identities.put_user(User("root", hash_password("right"), MINE, True, NOW))
    door = Doorkeeper(store, lambda: NOW)
    found = await door.authenticate(Credential(name="root", password="right"))
    assert (found.name, found.operator) == ("root", True)
    said = set()
    for name, password in (("root", "wrong"), ("nobody", "right"), ("root", ""), ("root", "\ud800")):
        with pytest.raises(Unauthenticated) as refused:
            await door.authenticate(Credential(name=name, password=password))
        said.add(str(refused.value))
    assert len(said) == 1


async def test_no_credential_opens_nothing(store: SqlStore) -> None:
    door = Doorkeeper(store, lambda: NOW)
    for given in (None, Credential(), Credential(key="pv_none"), Credential(key="\ud800")):
        with pytest.raises(Unauthenticated):
            await door.authenticate(given)


def test_a_credential_is_never_shown() -> None:
    assert "secret" not in repr(Credential(key="secret", name="secret", password="secret"))
