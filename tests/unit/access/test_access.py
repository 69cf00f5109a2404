"""Who may do what to whose things, and how credentials are known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from polyvisor.access.attempts import Attempts
from polyvisor.access.credentials import Doorkeeper, key_digest, new_key, new_session, new_token
from polyvisor.access.grants import permit, require, require_operator, scope
from polyvisor.access.pace import Pace
from polyvisor.access.passwords import hash_password
from polyvisor.model.faults import Forbidden, NotFound, Throttled, Unauthenticated
from polyvisor.model.identity import Grant, Project, User
from polyvisor.model.ids import ProjectId, UserId, mint
from polyvisor.model.principal import EVERYTHING, Action, Credential, Principal, member
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


@pytest.mark.parametrize(("action", "granted"), list(product(Action, Action)))
def test_what_one_may_not_see_is_not_there_and_what_one_sees_is_refused(action: Action, granted: Action) -> None:
    who = member("who", MINE, frozenset({granted}))
    with pytest.raises(NotFound) as refused:
        permit(who, action, THEIRS, "it") if action.view else permit(who, Action.INSTANCE_VIEW, THEIRS, "it")
    assert refused.value.subject == "it"
    if action is granted:
        permit(who, action, MINE, "it")
    elif action.view in (None, granted):
        with pytest.raises(Forbidden):
            permit(who, action, MINE, "it")
    else:
        with pytest.raises(NotFound):
            permit(who, action, MINE, "it")


@pytest.mark.parametrize("action", Action)
def test_an_operator_may_do_all_that_its_credential_lets_through(action: Action) -> None:
    operator = Principal("x", MINE, EVERYTHING, operator=True)
    permit(operator, action, THEIRS, "it")
    with pytest.raises(Forbidden):
        permit(operator.limited(EVERYTHING - {action}), action, MINE, "it")


def test_the_operator_sees_everything_and_is_alone_in_that() -> None:
    tenant, operator = member("x", MINE), Principal("x", MINE, EVERYTHING, operator=True)
    assert scope(tenant, Action.INSTANCE_VIEW) == [MINE]
    assert scope(operator, Action.INSTANCE_VIEW) is None
    require_operator(operator)
    with pytest.raises(Forbidden):
        require_operator(tenant)
    nobody = member("y", MINE, frozenset())
    assert scope(nobody, Action.INSTANCE_VIEW) == []
    with pytest.raises(Forbidden):
        require(nobody, Action.INSTANCE_VIEW)


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
        await unit.identities.add_user(User(UserId(mint()), "root", hash_password("right"), MINE, True, NOW))
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


async def test_who_guesses_waits_and_makes_nobody_else_wait(store: SqlStore) -> None:
    root = User(UserId(mint()), "root", hash_password("right"), MINE, True, NOW)
    async with store.write() as unit:
        await unit.identities.add_user(root)
        await unit.identities.add_user(replace(root, id=UserId(mint()), name="ann"))
    door = Doorkeeper(store, lambda: NOW, attempts=Attempts(burst=2, every=3600, spread=3))
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await door.authenticate(Credential(name="root", password="wrong", source="9.9.9.9"))
    with pytest.raises(Throttled) as refused:  # the right one is not even looked at
        await door.authenticate(Credential(name="root", password="right", source="9.9.9.9"))
    assert refused.value.retry_after
    assert refused.value.retry_after > 1000
    assert (await door.authenticate(Credential(name="root", password="right", source="1.1.1.1"))).name == "root"
    assert (await door.authenticate(Credential(name="ann", password="right", source="9.9.9.9"))).name == "ann"
    for number in range(6):  # many names from one place
        with pytest.raises((Unauthenticated, Throttled)):
            await door.authenticate(Credential(name=f"n{number}", password="x", source="9.9.9.9"))
    with pytest.raises(Throttled):
        await door.authenticate(Credential(name="new", password="x", source="9.9.9.9"))


async def test_refusals_of_an_address_are_told_one_after_the_other_and_nobody_else_waits(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.identities.add_user(User(UserId(mint()), "root", hash_password("right"), MINE, True, NOW))
    door = Doorkeeper(store, lambda: NOW, "secret", pace=Pace(burst=2, every=60, longest=600))
    wrong = [
        door.authenticate(Credential(name="root", password="wrong", source="9.9.9.9")),
        door.authenticate(Credential(key="pv_wrong", source="9.9.9.9")),
        door.authenticate(Credential(key="pvs_wrong", source="9.9.9.9")),
        door.bearer("a.b.c", "9.9.9.9"),
    ]
    tried = [asyncio.ensure_future(one) for one in wrong]
    async with asyncio.timeout(30):
        while sum(one.done() for one in tried) < 2:
            await asyncio.wait([one for one in tried if not one.done()], return_when=asyncio.FIRST_COMPLETED)
    done, waiting = await asyncio.wait(tried, timeout=0.3)
    assert (len(done), len(waiting)) == (2, 2)
    with pytest.raises(Unauthenticated):  # to another address it is told at once
        await asyncio.wait_for(door.authenticate(Credential(name="root", password="x", source="1.1.1.1")), 60)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*tried, return_exceptions=True)


async def test_an_address_has_one_place_in_the_queue_before_the_hash(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.identities.add_user(User(UserId(mint()), "root", hash_password("right"), MINE, True, NOW))
    door = Doorkeeper(store, lambda: NOW, attempts=Attempts(burst=1000), pace=Pace(burst=1000))
    guesses = [
        asyncio.ensure_future(door.authenticate(Credential(name="root", password=f"{n}", source="9.9.9.9")))
        for n in range(12)
    ]
    await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
    before = sum(one.done() for one in guesses)
    assert (await door.authenticate(Credential(name="root", password="right", source="1.1.1.1"))).name == "root"
    assert sum(one.done() for one in guesses) <= before + 3
    for refused in await asyncio.gather(*guesses, return_exceptions=True):
        assert isinstance(refused, Unauthenticated)


async def test_a_session_holds_until_it_expires_or_its_user_goes(store: SqlStore) -> None:
    now = NOW
    user = User(UserId(mint()), "ann", "", MINE, False, NOW)
    token = new_token()
    door = Doorkeeper(store, lambda: now)
    async with store.write() as unit:
        await unit.identities.add_user(user)
        await unit.identities.add_session(new_session(user.id, token, NOW, timedelta(hours=1)))
    found = await door.authenticate(Credential(key=token, source="1.1.1.1"))
    assert (found.name, found.user, found.source) == ("ann", user.id, "1.1.1.1")
    now = NOW + timedelta(hours=1)
    with pytest.raises(Unauthenticated):
        await door.authenticate(Credential(key=token))
    now = NOW
    async with store.write() as unit:
        await unit.identities.remove_user(user.id, NOW)
    with pytest.raises(Unauthenticated):
        await door.authenticate(Credential(key=token))


async def test_a_key_of_a_user_does_what_the_user_may_within_its_scopes(store: SqlStore) -> None:
    user = User(UserId(mint()), "ann", "", MINE, False, NOW)
    key, record = new_key("ci", MINE, NOW)
    scopes = frozenset({Action.INSTANCE_VIEW, Action.VOLUME_VIEW})
    async with store.write() as unit:
        await unit.identities.add_user(user)
        await unit.identities.add_key(replace(record, user=user.id, scopes=scopes))
        await unit.identities.put_grant(Grant(user.id, MINE, Action.INSTANCE_VIEW))
        await unit.identities.put_grant(Grant(user.id, MINE, Action.INSTANCE_DELETE))
    door = Doorkeeper(store, lambda: NOW)
    who = await door.authenticate(Credential(key=key))
    assert {action for action in Action if who.may(action, MINE)} == {Action.INSTANCE_VIEW}
    await door.note_uses()
    async with store.read() as unit:
        assert (await unit.identities.keys())[0].used == NOW
