"""Things to put into a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from polyvisor.model.identity import Project
from polyvisor.model.ids import Digest, HostId, InstanceId, OperationId, ProjectId, SnapshotId, VolumeId, mint
from polyvisor.model.instance import Address, Instance, Intent, Mount, Observed
from polyvisor.model.operation import Operation, Outcome, Verb
from polyvisor.model.snapshot import Snapshot, SnapshotKind, SnapshotState
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import GIB, MIB, Bytes
from polyvisor.model.volume import Volume, VolumeState
from polyvisor.store import SqlStore

NOW = datetime(2026, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
P, Q = ProjectId("p" * 24), ProjectId("q" * 24)
HOST = HostId("h" * 24)
IMAGE = Digest("sha256:" + "a" * 64)
NOBODY = InstanceId("nobody")
NOTHING = VolumeId("nothing")
SOURCE = InstanceId("s" * 24)


def a_spec(**given: Any) -> Spec:
    """A small one."""
    usual: dict[str, Any] = {"image": IMAGE, "image_name": "busybox", "shape": Shape.MICRO, "vcpus": 2}
    usual |= {"firmware": Firmware.NONE, "memory": Bytes(256 * MIB), "disk": Bytes(GIB)}
    return Spec(**usual | given)


def an_instance(name: str = "", project: ProjectId = P, after: int = 0, **given: Any) -> Instance:
    """One that was made `after` microseconds past now."""
    id = InstanceId(mint())
    usual: dict[str, Any] = {"id": id, "number": 0, "project": project, "name": name or id, "spec": a_spec()}
    usual |= {"intent": Intent(), "observed": Observed(), "host": HOST}
    return Instance(**usual | {"created": NOW + timedelta(microseconds=after)} | given)


def an_address(ip: str) -> Address:
    """With that number."""
    return Address("02:00:00:00:00:01", ip, 24, "10.0.0.1", "10.0.0.1")


def a_volume(name: str = "", project: ProjectId = P, after: int = 0) -> Volume:
    """One that is ready."""
    id = VolumeId(mint())
    created = NOW + timedelta(microseconds=after)
    return Volume(id, project, name or id, Bytes(GIB), VolumeState.READY, HOST, created)


def a_snapshot(name: str = "", project: ProjectId = P, after: int = 0, **given: object) -> Snapshot:
    """One that is ready."""
    id = SnapshotId(mint())
    one = Snapshot(
        id, project, name or id, SnapshotKind.FULL, SnapshotState.READY, SOURCE, "web",
        a_spec(env=(("A", "1"),), origin="o" * 24), Bytes(5 * MIB), HOST, NOW + timedelta(microseconds=after),
    )  # fmt: skip
    return replace(one, **given)  # type: ignore[arg-type]  # a test knows its fields


def an_operation(instance: Instance, verb: Verb = Verb.START, after: int = 0, **given: Any) -> Operation:
    """An open one."""
    created = NOW + timedelta(microseconds=after)
    usual: dict[str, Any] = {"id": OperationId(mint()), "instance": instance.id, "project": instance.project}
    usual |= {"verb": verb, "generation": 1, "outcome": Outcome.OPEN, "created": created}
    return Operation(**usual | given)


def a_mount(volume: Volume, **given: Any) -> Mount:
    """Of that volume."""
    return Mount(volume.id, volume.name, **given)


async def projects(store: SqlStore) -> None:
    """P and Q."""
    async with store.write() as unit:
        await unit.identities.add_project(Project(P, "first", NOW))
        await unit.identities.add_project(Project(Q, "second", NOW, P))


async def put(store: SqlStore, *things: Instance | Volume) -> None:
    """In one unit."""
    async with store.write() as unit:
        for thing in things:
            if isinstance(thing, Instance):
                await unit.instances.add(thing)
            else:
                await unit.volumes.add(thing)


async def get(store: SqlStore, instance: Instance) -> Instance:
    """As it is now."""
    async with store.read() as unit:
        return await unit.instances.get(instance.id)


@asynccontextmanager
async def hears(store: SqlStore) -> AsyncIterator[list[str]]:
    """What is published during the block, in a list that is filled at its end."""
    heard: list[str] = []
    async with store.follow("*") as news:
        yield heard
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                async for topic in news:
                    heard.append(topic)
