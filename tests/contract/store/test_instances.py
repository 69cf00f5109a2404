"""Instances in a store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contract.store.things import (
    HOST,
    IMAGE,
    NOBODY,
    NOW,
    P,
    Q,
    a_mount,
    a_spec,
    a_volume,
    an_address,
    an_instance,
    an_operation,
    get,
    projects,
    put,
)
from polyvisor.model.faults import Exists, Invalid, NotFound
from polyvisor.model.health import HealthCheck, Probe
from polyvisor.model.identity import Usage
from polyvisor.model.ids import Digest, ProjectId
from polyvisor.model.instance import Instance, Intent, Observed, Phase, Power, RunRecord
from polyvisor.model.operation import Outcome
from polyvisor.model.standby import StandbyPolicy
from polyvisor.model.units import Seconds
from polyvisor.store import SqlStore


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


async def test_what_is_added_comes_back_the_same(store: SqlStore) -> None:
    run = RunRecord(1, "boot", 12, 34, "uuid", "qemu", "7.2", "kvm", 1.5, (("tcp", 80, 8080),))
    given = an_instance(
        spec=a_spec(env=(("A", "\0"), ("B", "é😀")), labels=(("a", "b"),)),
        intent=Intent(Power.PAUSED, generation=3, expires=NOW),
        observed=Observed(Phase.RUNNING, 2, 1, NOW, True, run),
        address=an_address("10.0.0.9"),
    )
    async with store.write() as unit:
        added = await unit.instances.add(given)
    assert added.number > 0
    assert added == replace(given, number=added.number)
    assert await get(store, given) == added
    async with store.read() as unit:
        assert await unit.instances.named(P, given.name) == added
        assert list(await unit.instances.all()) == [added]


async def test_intent_spec_and_observation_do_not_overwrite_each_other(store: SqlStore) -> None:
    one = an_instance("one")
    await put(store, one)
    stale_intent, stale_observed = Intent(Power.OFF, generation=2), Observed(Phase.RUNNING, 1)
    async with store.write() as unit:
        await unit.instances.want(one.id, stale_intent)
    async with store.write() as unit:
        await unit.instances.saw(one.id, stale_observed)
    async with store.write() as unit:
        await unit.instances.rename(one.id, "two", a_spec(vcpus=7))
    now = await get(store, one)
    assert (now.name, now.spec.vcpus, now.intent, now.observed) == ("two", 7, stale_intent, stale_observed)


async def test_a_name_is_unique_in_its_project_only(store: SqlStore) -> None:
    one, other = an_instance("same"), an_instance("other")
    await put(store, one, other, an_instance("same", Q))
    async with store.write() as unit:
        with pytest.raises(Exists) as add:
            await unit.instances.add(an_instance("same"))
        with pytest.raises(Exists) as rename:
            await unit.instances.rename(other.id, "same", other.spec)
        await unit.instances.rename(other.id, "free", other.spec)  # the unit is still good
    assert add.value.field == rename.value.field == "name"
    assert (await get(store, other)).name == "free"


async def test_an_address_or_an_id_is_given_once(store: SqlStore) -> None:
    one = an_instance(address=an_address("10.0.0.10"))
    await put(store, one, an_instance(), an_instance())  # any number may have none
    async with store.write() as unit:
        with pytest.raises(Exists) as address:
            await unit.instances.add(an_instance(address=an_address("10.0.0.10")))
        with pytest.raises(Exists) as id:
            await unit.instances.add(replace(an_instance(), id=one.id))
        assert list(await unit.instances.addresses()) == ["10.0.0.10"]
    assert (address.value.field, id.value.field) == ("ip", "id")


async def test_numbers_are_never_reused(store: SqlStore) -> None:
    async with store.write() as unit:
        first = await unit.instances.add(an_instance())
        last = await unit.instances.add(an_instance())
        await unit.instances.forget(last.id)
    async with store.write() as unit:
        assert (await unit.instances.add(an_instance())).number > last.number > first.number


async def test_what_is_missing_is_not_found_by_its_name(store: SqlStore) -> None:
    async with store.write() as unit:
        for call in (
            unit.instances.get(NOBODY),
            unit.instances.named(P, "nobody"),
            unit.instances.want(NOBODY, Intent()),
            unit.instances.saw(NOBODY, Observed()),
            unit.instances.rename(NOBODY, "x", a_spec()),
            unit.instances.forget(NOBODY),
            unit.instances.add(an_instance(project=ProjectId("nobody"))),
        ):
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.subject == "nobody"


async def test_those_with_a_policy_are_found_by_it_with_their_mounts(store: SqlStore) -> None:
    volume = a_volume()
    words = (("A", '"standby":{"health":{'),)
    plain = an_instance("plain", spec=a_spec(env=words))
    sleepy = an_instance("sleepy", spec=a_spec(standby=StandbyPolicy(enabled=True, idle=Seconds(60.0))))
    checked = an_instance("checked", spec=a_spec(health=HealthCheck(Probe.TCP, port=80)))
    await put(store, volume, plain, replace(sleepy, mounts=(a_mount(volume),)), checked)
    async with store.read() as unit:
        (found,) = await unit.instances.having("standby")
        assert (found.id, [mount.volume for mount in found.mounts]) == (sleepy.id, [volume.id])
        assert [one.id for one in await unit.instances.having("health")] == [checked.id]


async def test_a_forgotten_instance_gives_everything_back(store: SqlStore) -> None:
    volume = a_volume()
    one = an_instance("one", address=an_address("10.0.0.11"), spec=a_spec(labels=(("a", "b"),)))
    await put(store, volume, replace(one, mounts=(a_mount(volume),)))
    async with store.write() as unit:
        await unit.instances.forget(one.id)
    async with store.read() as unit:
        assert (await unit.volumes.get(volume.id)).attached == ()
        assert list(await unit.instances.addresses()) == []
        assert (await unit.instances.page(None, None, 5, (("a", "b"),))).items == ()
    await put(store, replace(one, mounts=(a_mount(volume),)))


async def test_usage_counts_what_is_not_deleted(store: SqlStore) -> None:
    gone = an_instance()
    await put(store, an_instance(), an_instance(), an_instance(project=Q), gone)
    async with store.write() as unit:
        await unit.instances.want(gone.id, Intent(deleted=True))
    spec = gone.spec
    async with store.read() as unit:
        assert await unit.instances.usage([P]) == Usage(2, 4, 2 * spec.memory, 2 * spec.disk, 0)
        assert await unit.instances.usage(None) == Usage(3, 6, 3 * spec.memory, 3 * spec.disk, 0)
        assert await unit.instances.usage([ProjectId("nobody")]) == Usage(0, 0, 0, 0, 0)


async def test_using_lists_the_instances_of_an_image(store: SqlStore) -> None:
    other = Digest("sha256:" + "b" * 64)
    one, two = an_instance(), an_instance(spec=a_spec(image=other))
    await put(store, one, two)
    async with store.write() as unit:
        assert list(await unit.instances.using(IMAGE)) == [one.id]
        await unit.instances.rename(one.id, one.name, a_spec(image=other))
        assert set(await unit.instances.using(other)) == {one.id, two.id}


async def test_the_open_operation_comes_with_its_instance(store: SqlStore) -> None:
    one, two = an_instance(after=1), an_instance(after=2)
    operation = an_operation(one)
    await put(store, one, two)
    async with store.write() as unit:
        await unit.operations.open(operation)
    async with store.read() as unit:
        assert (await unit.instances.get(one.id)).operation == operation.id
        page = await unit.instances.page([P], None, 10)
        assert [i.operation for i in page.items] == [operation.id, None]
    async with store.write() as unit:
        await unit.operations.save(replace(operation, outcome=Outcome.DONE, finished=NOW))
    assert (await get(store, one)).operation is None


async def pages(store: SqlStore, limit: int, *labels: tuple[str, str]) -> list[list[Instance]]:
    """All pages of P."""
    found, cursor = [], None
    while True:
        async with store.read() as unit:
            page = await unit.instances.page([P], cursor, limit, labels)
        found.append(list(page.items))
        cursor = page.next
        if cursor is None:
            return found


async def test_pages_follow_each_other_whole_and_in_order(store: SqlStore) -> None:
    volume = a_volume()
    some = [an_instance(after=n // 3) for n in range(10)]  # three of each moment: the id decides
    some[4] = replace(some[4], mounts=(a_mount(volume, read_only=True),))
    await put(store, volume, *some, an_instance(project=Q))
    found = await pages(store, 4)
    assert [len(page) for page in found] == [4, 4, 2]
    listed = [instance for page in found for instance in page]
    assert [i.id for i in listed] == [i.id for i in sorted(some, key=lambda i: (i.created, i.id))]
    assert {i.id: i.mounts for i in listed} == {i.id: i.mounts for i in some}
    assert [len(page) for page in await pages(store, 5)] == [5, 5]


async def test_a_page_is_stable_while_others_come_and_go(store: SqlStore) -> None:
    some = [an_instance(after=n) for n in range(6)]
    await put(store, *some)
    async with store.read() as unit:
        first = await unit.instances.page([P], None, 3)
    await put(store, an_instance(after=-5), late := an_instance(after=99))
    async with store.write() as unit:
        await unit.instances.forget(some[2].id)  # the very one the cursor stands on
    async with store.read() as unit:
        second = await unit.instances.page([P], first.next, 10)
    assert [i.id for i in second.items] == [i.id for i in [*some[3:], late]]


async def test_labels_must_all_match_and_page_correctly(store: SqlStore) -> None:
    long = "v" * 5000
    some = []
    for n in range(12):
        labels = (("odd", str(n % 2)), ("third", str(n % 3)), ("long", long))
        some.append(an_instance(after=n, spec=a_spec(labels=labels)))
    await put(store, *some)
    found = await pages(store, 2, ("odd", "0"), ("long", long))
    assert [[i.id for i in page] for page in found] == [[some[n].id for n in two] for two in ((0, 2), (4, 6), (8, 10))]
    assert [i.id for page in await pages(store, 5, ("odd", "1"), ("third", "0")) for i in page] == [
        some[3].id,
        some[9].id,
    ]
    assert await pages(store, 5, ("odd", "\0")) == [[]]
    async with store.write() as unit:
        await unit.instances.rename(some[0].id, "x", a_spec(labels=(("new", "1"),)))
        assert [i.id for i in (await unit.instances.page([P], None, 9, (("new", "1"),))).items] == [some[0].id]
        assert len((await unit.instances.page([P], None, 99, (("odd", "0"),))).items) == 5


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!!!", "é", "AAAA", "MTIz", "LjEyMw", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5LmE", "\0"]
)
async def test_a_cursor_that_is_not_ours_is_invalid(store: SqlStore, cursor: str) -> None:
    async with store.read() as unit:
        for page in (unit.instances.page([P], cursor, 5), unit.volumes.page(None, cursor, 5)):
            with pytest.raises(Invalid) as caught:
                await page
            assert caught.value.field == "cursor"


async def test_text_a_database_cannot_hold_is_the_callers_fault(store: SqlStore) -> None:
    with pytest.raises(Invalid):
        await put(store, an_instance(spec=a_spec(labels=(("half", "\ud800"),))))
    for name in ("\ud800", "a\0b"):
        async with store.read() as unit:
            with pytest.raises((Invalid, NotFound)):
                await unit.instances.named(P, name)
    async with store.read() as unit:
        with pytest.raises(Invalid):
            await unit.events.after(2**70, None, 5)
    await put(store, an_instance(host=HOST))
