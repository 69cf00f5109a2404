"""Who may do what, through the API: users, projects, grants, keys, sessions, quotas, the audit log."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import jwt
import pytest
from websockets.asyncio.client import connect

from dialect.served import Served, fresh
from polyvisor.client import Client, Refused
from polyvisor.model.ids import InstanceId
from polyvisor.model.principal import Action
from polyvisor.wire.access import (
    CreateKey,
    CreateProject,
    CreateUser,
    GrantRequest,
    Login,
    QuotasRequest,
    UpdateProject,
    UpdateUser,
)
from polyvisor.wire.native import (
    AttachVolume,
    CreateInstance,
    CreateSnapshot,
    CreateVolume,
    ForkInstance,
    SetSchedule,
    UpdateInstance,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")
OFF: dict[str, Any] = {"image": "busybox", "power": "off"}


async def somebody(served: Served, *grants: tuple[str, list[str]]) -> tuple[str, Client]:
    """The name of a new user with these grants, and a client that is logged in as it."""
    name = fresh("user")
    async with served.client() as root:
        await root.users.create(CreateUser(name=name, password="secret of " + name))
        for project, actions in grants:
            await root.grants.assign(GrantRequest(user=name, project=project, actions=actions))
        token = (await root.sessions.login(Login(name=name, password="secret of " + name))).token
    return name, served.client(token)


async def project_of(served: Served, parent: str = "", **quotas: int) -> str:
    """A new project below another, or below the root."""
    async with served.client() as root:
        made = await root.projects.create(
            CreateProject(name=fresh("project"), parent=parent, quotas=QuotasRequest(**quotas))
        )
    return made.id


async def test_a_user_sees_what_is_granted_and_below(served: Served) -> None:
    above = await project_of(served)
    below = await project_of(served, above)
    name, ann = await somebody(served, (above, ["instance.*", "project.view", "image.view"]))
    async with served.client() as root, ann:
        there = Client(served.url, served.key, project=below)
        vm = await there.instances.create(CreateInstance(name=fresh("vm"), **OFF))
        elsewhere = await root.instances.create(CreateInstance(name=fresh("vm"), **OFF))
        assert vm.project == below
        assert [one.id async for one in ann.instances.list()] == [vm.id]
        assert (await ann.instances.get(vm.id)).name == vm.name
        for key in (elsewhere.id, elsewhere.name):
            with pytest.raises(Refused, match="no instance"):
                await ann.instances.get(key)
        assert {one.id for one in await ann.projects.list()} == {above, below}
        with pytest.raises(Refused, match="no project"):
            await ann.projects.get("root")
        with pytest.raises(Refused, match="may not create volumes"):
            await ann.volumes.create(CreateVolume(name=fresh("v"), size="64M"))
        await root.grants.revoke(name, above, ["instance.delete"])
        with pytest.raises(Refused, match="may not delete"):
            await ann.instances.delete(vm.id, force=True)
        await root.grants.revoke(name, above)
        with pytest.raises(Refused, match="may not"):
            [one async for one in ann.instances.list()]
        with pytest.raises(Refused, match="no instance"):
            await ann.instances.get(vm.id)
        await there._link.close()


async def test_nobody_passes_on_what_he_does_not_hold(served: Served) -> None:
    mine, other = await project_of(served), await project_of(served)
    _, boss = await somebody(served, (mine, ["grant.*", "instance.view", "user.*"]))
    ann, client = await somebody(served)
    await client._link.close()
    async with boss:
        given = await boss.grants.assign(GrantRequest(user=ann, project=mine, actions=["instance.view"]))
        assert given.actions == ["instance.view"]
        for project, actions in ((mine, ["instance.delete"]), (mine, ["*"])):
            with pytest.raises(Refused, match="does not hold"):
                await boss.grants.assign(GrantRequest(user=ann, project=project, actions=actions))
        for project in (other, "root"):
            with pytest.raises(Refused, match="no project"):
                await boss.grants.assign(GrantRequest(user=ann, project=project, actions=["instance.view"]))
        with pytest.raises(Refused, match="operator"):
            await boss.users.create(CreateUser(name=fresh("u"), password="x", operator=True, project=mine))
        with pytest.raises(Refused, match="operator"):
            await boss.users.update("root", UpdateUser(password="mine now"))
        with pytest.raises(Refused, match="operator"):
            await boss.users.delete("root")
        await boss.users.update(ann, UpdateUser(password="new"))  # who holds no more than the boss
        async with served.client() as root:
            await root.grants.assign(GrantRequest(user=ann, project=other, actions=["volume.view"]))
        with pytest.raises(Refused, match="may not"):
            await boss.users.update(ann, UpdateUser(password="newer"))
        with pytest.raises(Refused, match="may not"):
            await boss.users.delete(ann)
        with pytest.raises(Refused, match="none called"):
            await boss.grants.assign(GrantRequest(user=ann, project=mine, actions=["instance.fly"]))


async def test_sessions_begin_with_a_password_and_end(served: Served) -> None:
    name, ann = await somebody(served)
    async with served.client() as root, ann:
        assert (await ann.users.get(name)).name == name
        await ann.users.update(name, UpdateUser(password="another"))
        with pytest.raises(Refused) as over:
            await ann.users.get(name)
        assert over.value.status == 401
        with pytest.raises(Refused) as wrong:
            await root.sessions.login(Login(name=name, password="secret of " + name))
        assert wrong.value.status == 401
        token = (await root.sessions.login(Login(name=name, password="another", lifetime="1h"))).token
        async with served.client(token) as again:
            await again.users.get(name)
            await again.sessions.logout()
            with pytest.raises(Refused) as gone:
                await again.users.get(name)
            assert gone.value.status == 401
        basic = httpx.BasicAuth(name, "another")
        async with httpx.AsyncClient(base_url=served.url, auth=basic, trust_env=False) as http:
            assert (await http.get("/api/v1/about")).json()["principal"] == name
        with pytest.raises(Refused, match="lifetime"):
            await root.sessions.login(Login(name=name, password="another", lifetime="1000h"))


async def test_failed_logins_are_limited_and_logged(served: Served) -> None:
    name, ann = await somebody(served)
    async with served.client() as root, ann:
        statuses = set()
        for _ in range(12):
            with pytest.raises(Refused) as caught:
                await root.sessions.login(Login(name=name, password="guess"))
            statuses.add(caught.value.status)
        assert statuses == {401, 429}
        assert (await ann.users.get(name)).name == name  # who is in stays in
        log = await root.audit.list({"who": name, "action": "session.login"})
        assert {entry.outcome for entry in log.items} == {"ok", "Unauthenticated", "Throttled"}
        assert {entry.source for entry in log.items} == {"127.0.0.1"}


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/u/auth", "/api/v1/about"])
async def test_guesses_are_held_back_and_the_user_gets_in_from_elsewhere(served: Served, path: str) -> None:
    """By the logins of all dialects, and by a password with each request."""
    name, ann = await somebody(served)
    way = httpx.AsyncHTTPTransport(local_address="127.0.0.9")  # nobody else's: other tests are refused things, too
    guesser = httpx.AsyncClient(base_url=served.url, transport=way, timeout=30)
    user = httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=30)

    async def log_in(http: httpx.AsyncClient, password: str) -> int:
        if path == "/api/v1/about":
            return (await http.get(path, auth=httpx.BasicAuth(name, password))).status_code
        body = {"name": name, "username": name, "password": password}
        kept = ("name", "password") if path.startswith("/api") else ("username", "password")
        return (await http.post(path, json={key: body[key] for key in kept})).status_code

    async with guesser, user, ann:
        guesses = [asyncio.ensure_future(log_in(guesser, f"guess {number}")) for number in range(60)]
        await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
        assert await log_in(user, "secret of " + name) in (200, 201)
        assert (await ann.users.get(name)).name == name
        assert sum(guess.done() for guess in guesses) < 60  # all of that while they wait
        statuses = await asyncio.gather(*guesses)
        assert statuses.count(429) >= 50
        assert set(statuses) <= {401, 403, 429}
        assert await log_in(guesser, "secret of " + name) == 429


async def test_keys_have_scopes_and_an_end(served: Served) -> None:
    project = await project_of(served)
    name, ann = await somebody(served, (project, ["instance.*", "image.view", "key.create"]))
    async with served.client() as root, ann:
        made = await ann.keys.create(CreateKey(name="ci", project=project, scopes=["instance.view"], lifetime="1h"))
        assert made.record.scopes == ["instance.view"]
        assert [key.id for key in await ann.keys.list()] == [made.record.id]
        assert made.key not in str(await ann.keys.list())
        async with served.client(made.key) as ci:
            assert [one async for one in ci.instances.list()] == []
            with pytest.raises(Refused, match="may not create"):
                await ci.instances.create(CreateInstance(name=fresh("vm"), **OFF))
            with pytest.raises(Refused, match="may not create keys"):
                await ci.keys.create(CreateKey(name="more"))
            with pytest.raises(Refused, match="may not create keys"):
                await ci.keys.delete(made.record.id)
            with pytest.raises(Refused, match="may not alter users"):
                await ci.users.update(name, UpdateUser(password="mine"))
        maker = await ann.keys.create(CreateKey(name="maker", project=project, scopes=["instance.view", "key.create"]))
        async with served.client(maker.key) as ci:
            more = await ci.keys.create(CreateKey(name="more"))
            assert more.record.scopes == ["instance.view", "key.create"]  # no more than the key it was made with
            with pytest.raises(Refused, match="does not hold"):
                await ci.keys.create(CreateKey(name="most", scopes=["*"]))
        other = await project_of(served)
        for bad, field in ((CreateKey(name="x", project=other), "project"), (CreateKey(name="x y"), "name")):
            with pytest.raises(Refused) as caught:
                await ann.keys.create(bad)
            assert caught.value.problem.field == field
        await ann.keys.delete(made.record.id)
        async with served.client(made.key) as ci:
            with pytest.raises(Refused) as gone:
                await ci.users.get(name)
            assert gone.value.status == 401
        await root.users.delete(name)
        async with served.client(more.key) as orphan:
            with pytest.raises(Refused) as dead:
                await orphan.users.get(name)
            assert dead.value.status == 401


async def test_projects_are_a_tree(served: Served) -> None:
    async with served.client() as root:
        top = await root.projects.create(CreateProject(name=fresh("top")))
        leaf = await root.projects.create(CreateProject(name="leaf", parent=top.name))
        assert leaf.path == f"{top.name}/leaf"
        assert (await root.projects.get(leaf.path)).id == leaf.id
        with pytest.raises(Refused) as twice:
            await root.projects.create(CreateProject(name="leaf", parent=top.id))
        assert (twice.value.status, twice.value.problem.field) == (409, "name")
        with pytest.raises(Refused, match="below it"):
            await root.projects.delete(top.id)
        with pytest.raises(Refused, match="root"):
            await root.projects.delete("root")
        renamed = await root.projects.update(leaf.id, UpdateProject(name="twig"))
        assert renamed.path == f"{top.name}/twig"
        inside = Client(served.url, served.key, project=renamed.path)
        vm = await inside.instances.create(CreateInstance(name="same", image="busybox"), wait="ready")
        await inside.volumes.create(CreateVolume(name="v", size="64M"))
        await inside.instances.snapshot(vm.id, CreateSnapshot(name="s"))
        with pytest.raises(Refused, match="not empty"):
            await root.projects.delete(leaf.id)
        await root.projects.delete(leaf.id, force=True)
        with pytest.raises(Refused, match="no instance"):
            await root.instances.get(vm.id)
        await root.projects.delete(top.id)
        with pytest.raises(Refused, match="no project"):
            await root.projects.get(top.id)
        await inside._link.close()


async def test_two_hundred_creates_at_once_against_a_quota_of_fifty(served: Served) -> None:
    above = await project_of(served, instances=50)
    below = [await project_of(served, above) for _ in range(2)]
    clients = [Client(served.url, served.key, project=one) for one in below]
    try:
        asked = [clients[n % 2].instances.create(CreateInstance(name=f"q{n}", **OFF)) for n in range(200)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refusals = [one for one in answers if isinstance(one, Refused)]
        assert {(one.problem.kind, one.problem.field, one.status) for one in refusals} == {
            ("OverQuota", "instances", 403)
        }
        assert len(answers) - len(refusals) == 50
        async with served.client() as root:
            found = await root.projects.get(above)
            assert found.usage is not None
            assert found.usage.instances == 50
            listed = [one.project async for one in root.instances.list() if one.project in below]
            assert len(listed) == 50
            await root.projects.delete(below[0], force=True)
            again = await root.projects.get(above)
            assert again.usage is not None
            assert again.usage.instances == sum(one == below[1] for one in listed)
    finally:
        for client in clients:
            await client._link.close()


@pytest.mark.parametrize("quota", ["disk", "snapshots", "memory", "vcpus"])
async def test_a_quota_above_holds_below(served: Served, quota: str) -> None:
    above = await project_of(served, **{quota: 1})  # type: ignore[arg-type]  # of numbers
    below = await project_of(served, above)
    async with Client(served.url, served.key, project=below) as client, served.client() as root:
        if quota == "snapshots":
            vm = await client.instances.create(CreateInstance(name="s", **OFF), wait="launched")
            await client.instances.snapshot(vm.id, CreateSnapshot(name=fresh("s")))
            asked: Any = client.instances.snapshot(vm.id, CreateSnapshot(name=fresh("s")))
        elif quota == "disk":
            asked = client.volumes.create(CreateVolume(name="v", size="64M"))
        else:
            asked = client.instances.create(CreateInstance(name="s", vcpus=2, memory="256M", **OFF))
        with pytest.raises(Refused) as caught:
            await asked
        assert (caught.value.problem.kind, caught.value.problem.field) == ("OverQuota", quota)
        raised = await root.projects.update(above, UpdateProject(quotas=QuotasRequest(**{quota: 0})))
        assert getattr(raised.quotas, quota) == 0


async def test_quotas_are_set_from_above(served: Served) -> None:
    project = await project_of(served, instances=1)
    _, ann = await somebody(served, (project, ["project.*"]))
    async with ann:
        child = await ann.projects.create(CreateProject(name=fresh("c"), parent=project))
        await ann.projects.update(child.id, UpdateProject(quotas=QuotasRequest(instances=5)))
        with pytest.raises(Refused, match="from above"):
            await ann.projects.update(project, UpdateProject(quotas=QuotasRequest(instances=100)))


async def test_what_was_done_is_written_down(served: Served) -> None:
    project = await project_of(served)
    name, ann = await somebody(served, (project, ["instance.*", "audit.view", "image.view"]))
    before = datetime.now(UTC) - timedelta(minutes=1)
    async with ann, served.client() as root:
        key = (await ann.keys.create(CreateKey(name="k", project=project))).key
        async with served.client(key) as there:
            vm = await there.instances.create(CreateInstance(name=fresh("vm"), **OFF))
            await there.instances.update(vm.id, UpdateInstance(labels={"a": "b"}))
            with pytest.raises(Refused):
                await there.instances.start("nonesuch")
            log = await there.audit.list({"who": name, "since": before.isoformat()})
        assert [(entry.action, entry.subject, entry.outcome) for entry in log.items][:3] == [
            ("instance.start", "nonesuch", "NotFound"),
            ("instance.update", vm.id, "ok"),
            ("instance.create", vm.id, "ok"),
        ]
        assert {entry.project for entry in log.items} == {project}
        one = await root.audit.list({"subject": vm.id}, limit=1)
        assert one.next is not None
        assert (await root.audit.list({"subject": vm.id}, before=one.next)).items[0].action == "instance.create"
        _, nobody = await somebody(served)
        async with nobody:
            with pytest.raises(Refused, match="may not view audits"):
                await nobody.audit.list()


def allowed(parents: list[int | None], held: set[tuple[int, Action]], verb: Action, place: int) -> bool:
    """The rule: granted there or anywhere above."""
    here: int | None = place
    while here is not None and (here, verb) not in held:
        here = parents[here]
    return here is not None


async def by_velocity(served: Served, headers: dict[str, str], id: str, may: Callable[[Action], bool]) -> None:
    """The same rule through a third dialect, which calls things by number and says what is not allowed."""
    async with served.parts.store.read() as unit:
        vmid = (await unit.instances.get(InstanceId(id))).number
    body: dict[str, Any] = {"vmid": vmid, "state": "STOPPED"}
    asked = await served.http.post("/v/vm/state", json=body, headers=headers)
    assert asked.status_code == (200 if may(Action.INSTANCE_VIEW) else 403), asked.text
    told = await served.http.put("/v/vm/state", json=body, headers=headers)
    assert told.status_code == (200 if may(Action.INSTANCE_OPERATE) else 403), told.text


async def by_instavm(served: Served, headers: dict[str, str], id: str, may: Callable[[Action], bool]) -> None:
    """And through one that does not tell what is hidden from what is not there."""
    told = await served.http.get(f"/v1/vms/vmid-{id}", headers=headers)
    assert told.status_code == (200 if may(Action.INSTANCE_VIEW) else 404), told.text
    hidden = 403 if may(Action.INSTANCE_VIEW) else 404
    told = await served.http.patch(f"/v1/vms/vmid-{id}", json={"auto_resume": True}, headers=headers)
    assert told.status_code == (200 if may(Action.INSTANCE_ALTER) else hidden), told.text
    told = await served.http.post(f"/v1/vms/vmid-{id}/suspend", headers=headers)
    assert told.status_code == (409 if may(Action.INSTANCE_OPERATE) else hidden), told.text  # it is off
    told = await served.http.delete(f"/v1/vms/vmid-{id}", headers=headers)
    assert told.status_code == hidden, told.text


async def by_hanzo(served: Served, headers: dict[str, str], id: str, may: Callable[[Action], bool]) -> None:
    """And through one with roles: nobody gets further than what he holds."""
    told = await served.http.get("/api/vm.one", params={"vmId": f"vm_{id}"}, headers=headers)
    assert told.status_code in ((200,) if may(Action.INSTANCE_VIEW) else (403, 404)), told.text
    told = await served.http.post("/api/vm.stop", json={"vmId": f"vm_{id}"}, headers=headers)
    assert told.status_code in ((200, 403, 404) if may(Action.INSTANCE_OPERATE) else (403, 404)), told.text
    told = await served.http.request("DELETE", "/api/vm.destroy", json={"vmId": f"vm_{id}"}, headers=headers)
    assert told.status_code in (403, 404), told.text


@pytest.mark.parametrize("seed", range(3))
async def test_no_call_acts_where_its_user_may_not(served: Served, seed: int) -> None:
    """Random trees and grants, through five dialects, against the rule: granted there or above."""
    dice = random.Random(seed)
    parents: list[int | None] = [None]
    projects = [await project_of(served)]
    for _ in range(4):
        parents.append(dice.randrange(len(projects)))
        projects.append(await project_of(served, projects[parents[-1] or 0]))
    verbs = [Action.INSTANCE_VIEW, Action.INSTANCE_ALTER, Action.INSTANCE_OPERATE]
    machines = []
    for project in projects:
        async with Client(served.url, served.key, project=project) as there:
            machines.append(await there.instances.create(CreateInstance(name=fresh("vm"), **OFF)))
    for _ in range(3):
        held = {(dice.randrange(5), dice.choice(verbs)) for _ in range(dice.randrange(5))}
        _, user = await somebody(served, *((projects[place], [str(verb)]) for place, verb in held))

        async with user:
            home = projects[next(iter(held))[0]] if held else ""
            key = (await user.keys.create(CreateKey(name="k", project=home))).key if held else ""
            may = partial(allowed, parents, held)
            for place, vm in enumerate(machines):
                calls: list[tuple[Action, Any]] = [
                    (Action.INSTANCE_VIEW, user.instances.get(vm.id)),
                    (Action.INSTANCE_ALTER, user.instances.update(vm.id, UpdateInstance(labels={"seen": "yes"}))),
                    (Action.INSTANCE_OPERATE, user.instances.stop(vm.id)),
                ]
                for verb, call in calls:
                    if may(verb, place):
                        await call
                    else:
                        with pytest.raises(Refused) as caught:
                            await call
                        hidden = not may(Action.INSTANCE_VIEW, place)
                        assert caught.value.status == (404 if hidden else 403)
                if key:
                    headers = {"Authorization": f"Bearer {key}"}
                    found = await served.http.get(f"/instances/{vm.id}", headers=headers)
                    assert found.status_code in ((200,) if may(Action.INSTANCE_VIEW, place) else (403, 404))
                    for api in (by_velocity, by_instavm, by_hanzo):
                        await api(served, headers, vm.id, partial(may, place=place))


# -- ways around -------------------------------------------------------------------------------------------------------


async def refused(asked: Awaitable[object], status: int, words: str = "") -> None:
    """It is, so."""
    with pytest.raises(Refused, match=words or None) as caught:
        await asked
    assert caught.value.status == status


async def test_a_credential_with_less_than_all_gets_at_none_with_more(served: Served) -> None:
    project = await project_of(served)
    name, ann = await somebody(served, (project, ["instance.*", "user.*", "key.create", "image.view"]))
    boss = fresh("boss")
    async with served.client() as root, ann:
        await root.users.create(CreateUser(name=boss, password="secret of boss", operator=True))
        token = (await root.sessions.login(Login(name=boss, password="secret of boss"))).token
        async with served.client(token) as operator:
            made = await operator.keys.create(CreateKey(name="some", scopes=["user.create", "user.alter"]))
        async with served.client(made.key) as some:
            await refused(some.users.create(CreateUser(name=fresh("evil"), password="secret", operator=True)), 403)
            await refused(some.users.update(boss, UpdateUser(password="taken over")), 403)
            await refused(some.keys.list(), 403)
        mine = await ann.keys.create(CreateKey(name="mine", project=project, scopes=["user.alter"]))
        async with served.client(mine.key) as some:
            await refused(some.users.update(name, UpdateUser(password="taken over")), 403, "may not alter users")
        short = await ann.keys.create(CreateKey(name="short", project=project, lifetime="1h"))
        async with served.client(short.key) as some:
            longer = await some.keys.create(CreateKey(name="longer", project=project))
        assert longer.record.expires == short.record.expires
        await root.users.delete(boss)


async def test_what_was_signed_for_somebody_who_is_gone_is_worth_nothing(served: Served) -> None:
    project = await project_of(served)
    name, ann = await somebody(served, (project, ["instance.view"]))

    async def seen(**more: float) -> int:
        claims = {"sub": name, "exp": time.time() + 3600, **more}
        signed = jwt.encode(claims, served.parts.facts["jwt_secret"], algorithm="HS256")
        headers = {"Authorization": f"Bearer {signed}"}
        async with httpx.AsyncClient(base_url=served.url, headers=headers, trust_env=False) as http:
            return (await http.get("/instances")).status_code

    async with served.client() as root, ann:
        assert (await seen(), await seen(iat=time.time())) == (200, 200)
        await root.users.delete(name)
        assert (await seen(), await seen(iat=time.time() - 1)) == (401, 401)
        await root.users.create(CreateUser(name=name, password="secret of " + name))
        assert (await seen(iat=time.time() - 60), await seen(iat=time.time())) == (401, 403)


async def test_nothing_is_carried_out_of_a_project_by_who_may_not_look_into_it(served: Served) -> None:
    here, there = await project_of(served, snapshots=1), await project_of(served)
    rights = ["instance.view", "instance.operate", "instance.alter", "snapshot.view", "volume.view", "volume.use"]
    name, ann = await somebody(served, (here, rights), (there, ["*"]))
    async with served.client() as root, ann:
        token = (await root.sessions.login(Login(name=name, password="secret of " + name))).token
        own = Client(served.url, served.key, project=here)
        async with own:
            vm = await own.instances.create(CreateInstance(image="busybox", name=fresh("vm")), wait="ready")
            kept = await own.instances.snapshot(vm.id, CreateSnapshot(kind="full"))
            volume = await own.volumes.create(CreateVolume(name=fresh("v"), size="16M"))
        acting = Client(served.url, token, project=there)
        async with acting:
            await refused(
                acting.instances.create(CreateInstance(snapshot=kept.id, name=fresh("copy"))), 403, "interact"
            )
            await refused(acting.instances.fork(vm.id, ForkInstance(name=fresh("copy"))), 403, "interact")
            await refused(acting.instances.snapshot(vm.id, CreateSnapshot()), 403, "create snapshots")
            await refused(acting.schedules.set(vm.id, SetSchedule(interval="1h")), 403, "create snapshots")
            mine = await acting.instances.create(CreateInstance(image="busybox", name=fresh("mine")), wait="ready")
            await refused(acting.instances.attach(mine.id, AttachVolume(volume=volume.id)), 404)
            await acting.instances.delete(mine.id, force=True)
        log = await root.audit.list({"who": name, "outcome": "Forbidden"})
        assert {("instance.fork", here), ("snapshot.create", here)} <= {(e.action, e.project) for e in log.items}


async def test_what_was_opened_before_ends_with_the_right(served: Served) -> None:
    project = await project_of(served)
    name, ann = await somebody(served, (project, ["instance.*", "image.view", "event.view"]))
    async with served.client() as root, ann:
        async with Client(served.url, served.key, project=project) as own:
            vm = await own.instances.create(CreateInstance(image="busybox", name=fresh("vm")), wait="ready")
        token = (await root.sessions.login(Login(name=name, password="secret of " + name))).token
        headers = {"Authorization": f"Bearer {token}"}
        url = served.url.replace("http", "ws", 1) + f"/api/v1/instances/{vm.id}/exec"
        waiting = asyncio.create_task(ann.instances.wait(vm.id, ["stopped"], timeout=20))
        async with connect(url, proxy=None, additional_headers=headers) as socket:
            await asyncio.sleep(0.2)
            await root.users.delete(name)
            await socket.send('{"argv": ["true"]}')
            assert json.loads(await socket.recv())["kind"] == "Unauthenticated"
        await root.instances.stop(vm.id, force=True)
        await refused(waiting, 401)


async def test_the_log_says_to_whom_what_was_granted(served: Served) -> None:
    project = await project_of(served)
    name, ann = await somebody(served, (project, ["instance.view", "key.create", "audit.view"]))
    async with ann:
        made = await ann.keys.create(CreateKey(name="ci", project=project, scopes=["instance.view"]))
        log = {entry.action: entry for entry in (await ann.audit.list()).items}
        assert log["grant.assign"].detail.startswith(f"{name}: audit.view")
        assert (log["key.create"].subject, log["key.create"].detail) == (made.record.id, "ci: instance.view")
        await ann.sessions.logout()
    async with served.client() as root:
        assert [e.who for e in (await root.audit.list({"action": "session.logout", "who": name})).items] == [name]
