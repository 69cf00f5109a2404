"""Operations, volumes, images, events, identities and receipts in a store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from contract.store.things import (
    NOBODY,
    NOTHING,
    NOW,
    P,
    Q,
    a_mount,
    a_volume,
    an_instance,
    an_operation,
    get,
    projects,
    put,
)
from polyvisor.model.event import Event
from polyvisor.model.faults import Busy, Exists, NotFound
from polyvisor.model.identity import ApiKey, Project, Quotas, User
from polyvisor.model.ids import Digest, KeyId, OperationId, ProjectId, UserId, mint
from polyvisor.model.image import Image, ImageConfig, ImageKind, ImageState
from polyvisor.model.instance import Bus, MountState
from polyvisor.model.operation import Outcome, Verb
from polyvisor.model.principal import Action
from polyvisor.model.units import GIB, Bytes
from polyvisor.model.volume import VolumeState
from polyvisor.store import SqlStore

LATER = NOW + timedelta(seconds=1)


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


async def test_an_operation_supersedes_the_open_one(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    start, stop = an_operation(one), an_operation(one, Verb.STOP, after=5)
    async with store.write() as unit:
        await unit.operations.open(start)
        assert await unit.operations.current(one.id) == start
        await unit.operations.open(stop)
        assert await unit.operations.current(one.id) == stop
        gone = replace(start, outcome=Outcome.SUPERSEDED, finished=stop.created)
        assert await unit.operations.get(start.id) == gone
        assert list(await unit.operations.page([P], None, 10)) == [stop, gone]
        assert list(await unit.operations.page(None, one.id, 1)) == [stop]
        assert list(await unit.operations.page([Q], None, 10)) == []


async def test_a_closed_operation_stays_as_it_was_closed(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    start, stop = an_operation(one), an_operation(one, Verb.STOP, after=5)
    done = replace(stop, outcome=Outcome.FAILED, fault="no", fault_kind="Busy", finished=LATER)
    async with store.write() as unit:
        await unit.operations.open(start)
        await unit.operations.save(replace(start, progress="half", journal=("disk", "tap")))
        await unit.operations.open(stop)
        await unit.operations.save(replace(start, outcome=Outcome.DONE, journal=("disk",), finished=LATER))
        await unit.operations.save(replace(start, journal=("disk",)))
        await unit.operations.save(done)
        await unit.operations.save(replace(done, outcome=Outcome.DONE, fault=""))
        old = await unit.operations.get(start.id)
        assert (old.outcome, old.journal) == (Outcome.SUPERSEDED, ("disk",))
        assert await unit.operations.get(stop.id) == done
        assert await unit.operations.current(one.id) is None


async def test_operations_outlive_their_instance_until_they_are_pruned(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    delete = an_operation(one, Verb.DELETE)
    async with store.write() as unit:
        await unit.operations.open(delete)
        assert await unit.operations.prune(LATER) == 0  # open ones are not pruned
        await unit.operations.save(replace(delete, outcome=Outcome.DONE, finished=NOW))
        await unit.instances.forget(one.id)
    async with store.write() as unit:
        assert (await unit.operations.get(delete.id)).outcome is Outcome.DONE
        assert await unit.operations.prune(NOW) == 0
        assert await unit.operations.prune(LATER) == 1
        for call in (
            unit.operations.get(OperationId("nobody")),
            unit.operations.save(replace(delete, id=OperationId("nobody"))),
            unit.operations.open(replace(delete, instance=NOBODY)),
        ):
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.subject == "nobody"


async def test_volumes_come_back_the_same(store: SqlStore) -> None:
    some = [a_volume(after=n) for n in range(5)]
    await put(store, *some, a_volume(some[0].name, Q))
    grown = replace(some[0], size=Bytes(5 * GIB), state=VolumeState.DELETING)
    async with store.write() as unit:
        await unit.volumes.save(grown.id, grown.state, grown.size)
        with pytest.raises(Exists) as caught:
            await unit.volumes.add(a_volume(some[0].name))
        assert caught.value.field == "name"
        assert await unit.volumes.get(grown.id) == await unit.volumes.named(P, grown.name) == grown
        first = await unit.volumes.page([P], None, 3)
        second = await unit.volumes.page([P], first.next, 3)
        assert [*first.items, *second.items] == [grown, *some[1:]]
        assert second.next is None
        assert len(await unit.volumes.all()) == 6
        assert (await unit.volumes.page([Q], second.next, 1)).next is None
        await unit.volumes.forget(grown.id)
        for call in (
            unit.volumes.get(NOTHING),
            unit.volumes.named(Q, "nothing"),
            unit.volumes.save(NOTHING, VolumeState.READY, Bytes(1)),
            unit.volumes.forget(NOTHING),
        ):
            with pytest.raises(NotFound) as missing:
                await call
            assert missing.value.subject == "nothing"


async def test_a_medium_and_its_bus_come_back_the_same(store: SqlStore) -> None:
    medium = replace(a_volume(), kind="ISO", read_only=True, pool="main")
    mount = a_mount(medium, read_only=True, bus=Bus.USB, pool="main")
    one = an_instance(mounts=(mount,))
    await put(store, medium, one)
    async with store.read() as unit:
        assert await unit.volumes.get(medium.id) == replace(medium, attached=(one.id,))
        assert (await unit.instances.get(one.id)).mounts == (mount,)


async def test_a_volume_has_one_writer_or_many_readers(store: SqlStore) -> None:
    one, two, three = an_instance(), an_instance(), an_instance()
    shared, own = a_volume("shared", after=1), a_volume("own", after=2)
    await put(store, one, two, three, shared, own)
    reads, writes = a_mount(shared, read_only=True), a_mount(shared)
    async with store.write() as unit:
        await unit.instances.mount(one.id, reads)
        await unit.instances.mount(two.id, reads)
        await unit.instances.mount(two.id, a_mount(own, path="/data", state=MountState.ATTACHING))
        for instance, mount in (
            (three, writes),
            (three, a_mount(own)),
            (three, a_mount(own, read_only=True)),
        ):
            with pytest.raises(Busy) as caught:
                await unit.instances.mount(instance.id, mount)
            assert caught.value.subject == mount.volume
        with pytest.raises(Exists):
            await unit.instances.mount(one.id, reads)
        with pytest.raises(Busy):
            await unit.volumes.forget(shared.id)
        assert [v.attached for v in (await unit.volumes.page([P], None, 9)).items] == [
            (one.id, two.id),
            (two.id,),
        ]
        await unit.instances.mounted(two.id, own.id, MountState.DETACHING)
    detaching = a_mount(own, path="/data", state=MountState.DETACHING)
    assert (await get(store, two)).mounts == (reads, detaching)
    async with store.write() as unit:
        await unit.instances.unmount(one.id, shared.id)
        await unit.instances.unmount(two.id, shared.id)
        await unit.instances.mount(three.id, writes)
        assert (await unit.volumes.get(shared.id)).attached == (three.id,)


async def test_a_mount_needs_its_instance_and_its_volume(store: SqlStore) -> None:
    one, volume = an_instance(), a_volume()
    await put(store, one, volume)
    async with store.write() as unit:
        for call, subject in (
            (unit.instances.mount(NOBODY, a_mount(volume)), NOBODY),
            (unit.instances.mount(one.id, replace(a_mount(volume), volume=NOTHING)), NOTHING),
            (unit.instances.mounted(one.id, volume.id, MountState.ATTACHED), volume.id),
            (unit.instances.unmount(one.id, volume.id), volume.id),
        ):
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.subject == subject


def an_image(letter: str, *names: str, after: int = 0) -> Image:
    """A ready one."""
    config = ImageConfig(("sh",), ("-c", "ls"), (("PATH", "/bin"),), labels=(("a", "b"),))
    created = NOW + timedelta(microseconds=after)
    digest = Digest("sha256:" + letter * 64)
    return Image(digest, names, ImageKind.ROOT, ImageState.READY, created, Bytes(5), Bytes(7), config, "", 0.5)


async def test_images_are_found_by_the_names_their_projects_gave(store: SqlStore) -> None:
    a, b, c = an_image("a", "z:1", "app:1"), an_image("b", "app:2", after=1), an_image("c", "app:1", after=2)
    async with store.write() as unit:
        await unit.images.put(a, P)
        await unit.images.put(b, ProjectId(""))
        await unit.images.put(c, Q)
        assert await unit.images.find("app:1", P) == await unit.images.find(a.id, P) == a
        assert await unit.images.find("app:1", Q) == c
        assert await unit.images.find("app:2", Q) == b
        assert list(await unit.images.all(P)) == [a, b]
        assert list(await unit.images.all(Q)) == [b, c]
        assert list(await unit.images.all(None)) == [a, b, c]
        for name in (a.id, "z:1", "nothing"):
            with pytest.raises(NotFound):
                await unit.images.find(name, Q)


async def test_a_name_moves_to_the_newest_image(store: SqlStore) -> None:
    old, new = an_image("a", "app:1", "old"), an_image("b", "app:1", after=1)
    async with store.write() as unit:
        await unit.images.put(old, P)
        await unit.images.put(new, P)
        assert await unit.images.find("app:1", P) == new
        assert await unit.images.find("old", P) == replace(old, names=("old",))
        await unit.images.put(replace(old, names=(), state=ImageState.FAILED), P)
        with pytest.raises(NotFound):
            await unit.images.find("old", P)
        assert (await unit.images.find(old.id, P)).state is ImageState.FAILED
        await unit.images.forget(new.id)
        with pytest.raises(NotFound):
            await unit.images.find("app:1", P)
        with pytest.raises(NotFound):
            await unit.images.forget(new.id)


async def test_events_are_numbered_and_can_be_resumed(store: SqlStore) -> None:
    async with store.write() as unit:
        assert await unit.events.last() == 0
        for n in range(6):
            await unit.events.append(Event("a.b", (P, Q)[n % 2], str(n), NOW, {"n": str(n), "x": "\0"}))
    async with store.write() as unit:
        every = await unit.events.after(0, None, 100)
        assert [e.subject for e in every] == list("012345")
        assert every[0] == Event("a.b", P, "0", NOW, {"n": "0", "x": "\0"}, every[0].seq)
        assert [e.subject for e in await unit.events.after(every[1].seq, [P], 1)] == ["2"]
        assert await unit.events.last() == every[-1].seq
        assert await unit.events.prune(2) == 4
        assert list(await unit.events.after(0, None, 100)) == list(every[4:])
        assert await unit.events.prune(0) == 1
        assert await unit.events.prune(5) == 0
        await unit.events.append(replace(every[0], seq=0))
        assert await unit.events.last() > every[-1].seq


async def test_identities_come_back_the_same(store: SqlStore) -> None:
    project = Project(ProjectId(mint()), "third", LATER, Q, Quotas(1, 2, 2**40, 2**50, 3), 2)
    key = ApiKey(KeyId(mint()), "ci", P, "pv_ab", "hash", NOW, True, LATER)
    other = ApiKey(KeyId(mint()), "ci", P, "pv_cd", "hash2", LATER)
    user = User(UserId(mint()), "root", "argon", P, True, NOW)
    scoped = ApiKey(KeyId(mint()), "bot", P, "pv_ef", "hash3", LATER, user=user.id, scopes=frozenset(Action), used=NOW)
    async with store.write() as unit:
        ids = unit.identities
        await ids.add_project(project)
        await ids.add_key(key)
        await ids.add_key(other)
        assert await ids.add_user(user) == user
        await ids.add_key(scoped)
        assert await ids.project(project.id) == project
        assert [p.name for p in await ids.projects()] == ["first", "second", "third"]
        assert await ids.key_by_digest("hash") == key
        assert sorted(await ids.keys(), key=lambda k: k.digest) == [key, other, scoped]
        assert await ids.user(user.id) == user
        await ids.save_user(replace(user, password="new", operator=False))
        assert await ids.user_named("root") == replace(user, password="new", operator=False)
        await ids.used_key(scoped.id, LATER)
        assert await ids.key_by_digest("hash3") == replace(scoped, used=LATER)
        await ids.remove_key(key.id)
        assert await ids.key_by_digest("hash") is None
        assert await ids.user_named("nobody") is None


async def test_identities_refuse_what_clashes_or_is_missing(store: SqlStore) -> None:
    key = ApiKey(KeyId(mint()), "ci", P, "pv_ab", "hash", NOW)
    nobody = ProjectId("nobody")
    async with store.write() as unit:
        ids = unit.identities
        await ids.add_key(key)
        for clash, field in (
            (ids.add_project(Project(P, "other", NOW)), "id"),
            (ids.add_project(Project(nobody, "second", NOW, P)), "name"),
            (ids.add_key(replace(key, id=KeyId(mint()))), "digest"),
            (ids.add_key(replace(key, digest="else")), "id"),
        ):
            with pytest.raises(Exists) as exists:
                await clash
            assert exists.value.field == field
        for missing in (
            ids.project(nobody),
            ids.remove_key(KeyId("nobody")),
            ids.add_key(replace(key, id=KeyId(mint()), digest="else", project=nobody)),
            ids.add_user(User(UserId(mint()), "x", "", nobody, False, NOW)),
            ids.user(UserId("nobody")),
        ):
            with pytest.raises(NotFound) as caught:
                await missing
            assert caught.value.subject == "nobody"


async def test_a_receipt_is_given_once_for_a_key(store: SqlStore) -> None:
    async with store.write() as unit:
        assert await unit.receipts.find(P, "k") is None
        await unit.receipts.add(P, "k", "hash", "made", NOW)
        await unit.receipts.add(Q, "k", "other", "thing", LATER)
        with pytest.raises(Exists):
            await unit.receipts.add(P, "k", "hash", "again", LATER)
        assert await unit.receipts.find(P, "k") == ("hash", "made")
    async with store.write() as unit:
        assert await unit.receipts.prune(LATER) == 1
        assert await unit.receipts.find(P, "k") is None
        assert await unit.receipts.find(Q, "k") == ("other", "thing")
