"""Forks and snapshots: every source state, every target, and what is copied and what not."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypeman import APIStatusError, AsyncHypeman, ConflictError, NotFoundError

from dialect.hypeman.making import make
from dialect.served import Served, fresh
from polyvisor.model.principal import SYSTEM

pytestmark = pytest.mark.asyncio(loop_scope="session")
STATES = ("Running", "Standby", "Stopped")


async def settle(sdk: AsyncHypeman, id: str, state: str) -> None:
    """Bring a running instance into a state."""
    if state == "Standby":
        await sdk.instances.standby(id)
    elif state == "Stopped":
        await sdk.instances.stop(id)


@pytest.mark.parametrize("target", STATES)
@pytest.mark.parametrize("source", STATES)
async def test_a_fork_of_every_state_gets_to_every_state(sdk: AsyncHypeman, source: str, target: Any) -> None:
    made = await make(sdk, tags={"team": "x"}, env={"A": "1"})
    await settle(sdk, made.id, source)
    fork = await sdk.instances.fork(made.id, name=fresh("fork"), target_state=target, from_running=True)
    assert fork.state == target == (await sdk.instances.get(fork.id)).state
    assert (await sdk.instances.get(made.id)).state == source
    assert fork.id != made.id and fork.network is not None and made.network is not None
    assert fork.network.mac != made.network.mac and fork.network.ip != made.network.ip
    assert (fork.tags, fork.env, fork.image, fork.size) == ({"team": "x"}, {"A": "1"}, made.image, made.size)
    assert fork.has_snapshot is (target == "Standby")


@pytest.mark.parametrize("source", STATES)
async def test_a_fork_is_as_its_source_unless_told_otherwise(sdk: AsyncHypeman, source: str) -> None:
    made = await make(sdk)
    await settle(sdk, made.id, source)
    assert (await sdk.instances.fork(made.id, name=fresh("fork"), from_running=True)).state == source


@pytest.mark.parametrize("target", [None, *STATES])
@pytest.mark.parametrize("kind", ["Standby", "Stopped"])
async def test_a_snapshot_becomes_an_instance_in_every_state(sdk: AsyncHypeman, kind: Any, target: Any) -> None:
    made = await make(sdk, tags={"team": "x"})
    if kind == "Stopped":
        await sdk.instances.stop(made.id)
    taken = await sdk.instances.snapshots.create(made.id, kind=kind)
    await sdk.instances.delete(made.id)
    more = {} if target is None else {"target_state": target}
    fork = await sdk.snapshots.fork(taken.id, name=fresh("fork"), **more)
    assert fork.state == (target or {"Standby": "Running", "Stopped": "Stopped"}[kind])
    assert (fork.tags, fork.image, fork.size) == ({"team": "x"}, made.image, made.size)


@pytest.mark.parametrize("target", [None, *STATES])
@pytest.mark.parametrize("source", ["Standby", "Stopped"])
@pytest.mark.parametrize("kind", ["Standby", "Stopped"])
async def test_an_instance_goes_back_to_a_snapshot(sdk: AsyncHypeman, kind: Any, source: str, target: Any) -> None:
    made = await make(sdk)
    if kind == "Stopped":
        await sdk.instances.stop(made.id)
        taken = await sdk.instances.snapshots.create(made.id, kind=kind)
        await sdk.instances.start(made.id)
        await sdk.instances.wait(made.id, state="Running")
    else:
        taken = await sdk.instances.snapshots.create(made.id, kind=kind)
    await settle(sdk, made.id, source)
    more = {} if target is None else {"target_state": target}
    back = await sdk.instances.snapshots.restore(taken.id, id=made.id, **more)
    wanted = target or {"Standby": "Running", "Stopped": "Stopped"}[kind]
    assert (back.id, back.state) == (made.id, wanted)
    if wanted == "Stopped":  # no memory is left that a start would go on from
        assert back.has_snapshot is False


async def test_a_snapshot_says_what_it_is(sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    name = fresh("snap")
    taken = await sdk.instances.snapshots.create(made.id, kind="Standby", name=name, tags={"k": "v"})
    assert (taken.name, taken.kind, taken.tags) == (name, "Standby", {"k": "v"})
    assert (taken.source_instance_id, taken.source_instance_name) == (made.id, made.name)
    assert (taken.source_hypervisor, taken.compression_state) == ("qemu", "none")
    assert taken.size_bytes > 0
    assert (await sdk.snapshots.get(taken.id)).to_dict() == taken.to_dict()
    assert (await sdk.instances.get(made.id)).state == "Running"
    nameless = await sdk.instances.snapshots.create(made.id, kind="Standby")
    assert nameless.name is None
    for which, found in (
        ({"source_instance_id": made.id}, [taken.id, nameless.id]), ({"name": name}, [taken.id]),
        ({"tags": {"k": "v"}, "source_instance_id": made.id}, [taken.id]),
        ({"source_instance_id": made.id, "kind": "Stopped"}, []), ({"tags": {"k": "w"}}, []),
    ):  # fmt: skip
        listed = await sdk.snapshots.list(**which)
        assert [one.id for one in listed] == found
    await sdk.snapshots.delete(taken.id)
    with pytest.raises(NotFoundError):
        await sdk.snapshots.get(taken.id)
    with pytest.raises(NotFoundError):
        await sdk.snapshots.delete(taken.id)


async def test_a_name_is_ones_own_within_a_source(sdk: AsyncHypeman) -> None:
    one, other = await make(sdk), await make(sdk)
    name = fresh("snap")
    first = await sdk.instances.snapshots.create(one.id, kind="Standby", name=name)
    assert (await sdk.instances.snapshots.create(other.id, kind="Standby", name=name)).name == name
    with pytest.raises(ConflictError) as refused:
        await sdk.instances.snapshots.create(one.id, kind="Standby", name=name)
    assert refused.value.body is not None and refused.value.body["code"] == "conflict"  # type: ignore[index]
    await sdk.snapshots.delete(first.id)
    assert (await sdk.instances.snapshots.create(one.id, kind="Standby", name=name)).name == name


async def refused(call: Any) -> tuple[int, str, str]:
    """Status, code and message of what is refused."""
    with pytest.raises(APIStatusError) as error:
        await call
    body: Any = error.value.body
    return error.value.status_code, body["code"], body["message"]


async def test_what_a_snapshot_cannot_do(sdk: AsyncHypeman) -> None:
    made, other = await make(sdk), await make(sdk)
    sdk = sdk.with_options(max_retries=0)
    taken = await sdk.instances.snapshots.create(made.id, kind="Standby")
    restore, fork = sdk.instances.snapshots.restore, sdk.snapshots.fork
    assert await refused(restore(taken.id, id=made.id)) == (
        409, "invalid_state", "cannot restore snapshot while source is Running",
    )  # fmt: skip
    assert (await refused(restore(taken.id, id=other.id)))[:2] == (400, "invalid_request")
    assert (await refused(restore("nothing", id=made.id)))[:2] == (404, "not_found")
    await sdk.instances.stop(made.id)
    only = "target_hypervisor is only allowed for Stopped snapshots"
    assert await refused(restore(taken.id, id=made.id, target_hypervisor="qemu")) == (400, "invalid_request", only)
    assert (await refused(fork(taken.id, name=fresh("f"), target_hypervisor="qemu")))[2] == only
    cold = await sdk.instances.snapshots.create(made.id, kind="Stopped")
    assert (await refused(fork(cold.id, name=fresh("f"), target_hypervisor="vz")))[:2] == (400, "invalid_request")
    assert (await sdk.snapshots.fork(cold.id, name=fresh("f"), target_hypervisor="qemu")).state == "Stopped"
    assert (await refused(fork(cold.id, name=other.name)))[:2] == (409, "name_conflict")
    packed: Any = {"enabled": True}
    create = sdk.instances.snapshots.create
    text = "compression is only supported for standby snapshots"
    assert await refused(create(made.id, kind="Stopped", compression=packed)) == (400, "invalid_request", text)
    too_much: Any = {"enabled": True, "algorithm": "lz4", "level": 12}
    assert (await refused(create(other.id, kind="Standby", compression=too_much)))[1] == "invalid_snapshot_compression"
    assert (await refused(sdk.instances.standby(other.id, compression=too_much)))[0] == 400
    assert (await refused(sdk.instances.standby(other.id, compression_delay="x")))[1] == "invalid_compression_delay"
    assert (await sdk.instances.standby(other.id, compression={"enabled": False})).state == "Standby"
    assert (await refused(sdk.instances.standby(other.id, compression=packed)))[:2] == (409, "invalid_state")


async def test_saved_memory_is_compressed_as_asked(served: Served, sdk: AsyncHypeman) -> None:
    policy: Any = {"compression": {"enabled": True, "algorithm": "lz4"}, "standby_compression_delay": "5m"}
    made = await make(sdk, snapshot_policy=policy)
    assert made.snapshot_policy is not None and made.snapshot_policy.to_dict() == policy
    spec = (await served.parts.engine.instances.get(SYSTEM, made.id)).spec
    assert (str(spec.compression), spec.compression_delay) == ("lz4:0", 300.0)
    asleep = await sdk.instances.standby(made.id, compression={"enabled": True, "level": 7}, compression_delay="1h")
    assert asleep.state == "Standby"
    intent = (await served.parts.engine.instances.get(SYSTEM, made.id)).intent
    assert (str(intent.packing.compression), intent.packing.delay) == ("zstd:7", 3600.0)
    await sdk.instances.restore(made.id)
    taken = await sdk.instances.snapshots.create(made.id, kind="Standby", compression={"enabled": True})
    assert taken.compression is not None
    assert (taken.compression.algorithm, taken.compression.level) == ("zstd", 1)
    plain = await sdk.instances.snapshots.create(made.id, kind="Standby", compression={"enabled": False})
    assert (plain.compression, plain.compression_state) == (None, "none")


async def test_volumes_are_in_the_way_of_copies(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    volume = await sdk.volumes.create(name=fresh("v"), size_gb=1)
    made = await make(sdk, volumes=[{"volume_id": volume.id, "mount_path": "/data"}])
    answer = await http.post(f"/instances/{made.id}/fork", json={"name": fresh("f"), "from_running": True})
    assert answer.status_code == 501
    text = f'cannot fork instance with writable volume "{volume.id}" mounted at "/data"'
    hint = "use readonly+overlay for safe concurrent forks"
    assert answer.json() == {"code": "not_supported", "message": f"{text}; {hint}"}
    snapshot = await http.post(f"/instances/{made.id}/snapshots", json={"kind": "Standby"})
    assert (snapshot.status_code, snapshot.json()["code"]) == (501, "not_supported")


async def test_volumes_that_are_only_read_are_the_forks_too(sdk: AsyncHypeman) -> None:
    volume = await sdk.volumes.create(name=fresh("v"), size_gb=1)
    mount: Any = {"volume_id": volume.id, "mount_path": "/data", "readonly": True}
    made = await make(sdk, volumes=[mount])
    for target in STATES:
        fork = await sdk.instances.fork(made.id, name=fresh("f"), from_running=True, target_state=target)  # type: ignore[arg-type]
        assert fork.state == target and fork.volumes is not None
        assert [one.to_dict() for one in fork.volumes] == [mount]
    taken = await sdk.instances.snapshots.create(made.id, kind="Standby")
    await sdk.instances.delete(made.id)
    assert (await sdk.snapshots.fork(taken.id, name=fresh("f"))).volumes is not None


async def test_schedules(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk)
    schedules = sdk.instances.snapshot_schedule
    for body, why in (
        ({"interval": "30s", "retention": {"max_count": 1}}, "interval must be at least 1m0s"),
        ({"interval": "1h", "retention": {}}, "retention must include max_count or max_age"),
        ({"interval": "x", "retention": {"max_count": 1}}, "interval"),
        ({"interval": "1h", "retention": {"max_age": "x"}}, "retention.max_age"),
        ({"interval": "1h", "retention": {"max_age": "1s"}}, "max_age"),
    ):
        answer = await http.put(f"/instances/{made.id}/snapshot-schedule", json=body)
        assert answer.status_code == 400 and why in answer.json()["message"]
    first = await schedules.update(
        made.id,
        interval="60m",
        retention={"max_count": 0, "max_age": "24h"},
        metadata={"k": "v"},
        name_prefix="nightly",
    )
    assert (first.interval, first.name_prefix, first.metadata) == ("1h0m0s", "nightly", {"k": "v"})
    assert (first.retention.max_count, first.retention.max_age) == (0, "24h0m0s")
    second = await schedules.update(made.id, interval="1h", retention={"max_count": 3})
    assert (second.next_run_at, second.created_at) == (first.next_run_at, first.created_at)
    assert second.updated_at > first.updated_at
    assert second.name_prefix is None and second.retention.max_age is None
    assert (await schedules.get(made.id)).to_dict() == second.to_dict()
    await schedules.delete(made.id)
    for gone in (schedules.get(made.id), schedules.delete(made.id)):
        with pytest.raises(NotFoundError):
            await gone
