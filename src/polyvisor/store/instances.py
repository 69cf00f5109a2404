"""Instances: intent, spec and observation in columns of their own, each with an UPDATE of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, insert, select, true, update

from polyvisor.model.faults import NotFound
from polyvisor.model.identity import Usage
from polyvisor.model.ids import Digest, HostId, InstanceId, OperationId, ProjectId, VolumeId
from polyvisor.model.instance import Address, Instance, Intent, Mount, MountState, Observed, with_overlay
from polyvisor.model.query import Page
from polyvisor.model.spec import Spec
from polyvisor.store import claims, codec, foreigners, keyset
from polyvisor.store.snapshots import is_counted
from polyvisor.store.tables import attachments, instances, is_open, is_spare, labels, operations, snapshots, volumes
from polyvisor.store.work import Work, owned

_i = instances.c

# A lookup for each row rather than a join: while PostgreSQL's statistics lag behind a burst of operations it
# compares every instance with every operation, which takes ten times as long.
_open = select(operations.c.id).where(operations.c.instance == _i.id, is_open).scalar_subquery()
_mounted = exists().where(attachments.c.instance == _i.id)
_SELECT = select(
    _i.id,
    _i.number,
    _i.project,
    _i.name,
    _i.spec,
    _i.intent,
    _i.observed,
    _i.host,
    _i.created,
    _i.address,
    _open,
)
_HAVING = '"{}":{{'  # a quotation mark inside of a text is escaped, so no other text is like it


class SqlInstances:
    """See `ports.store.Instances`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def add(self, instance: Instance) -> Instance:
        """Insert, with its mounts; the number is given here."""
        row: dict[str, Any] = {
            "id": instance.id,
            "project": instance.project,
            "name": instance.name,
            "host": instance.host,
        }
        row |= {"created": codec.micros(instance.created), **_of_spec(instance.spec)}
        row |= {**_of_intent(instance.intent), **_of_observed(instance.observed)}
        if instance.address is not None:
            row |= {"address": codec.address.encode(instance.address), "ip": instance.address.ip}
        number = await self._work.insert(insert(instances).values(row), instance.id, instance.project)
        await self._label(instance.id, instance.spec)
        mounts = [await claims.take(self._work, instance.id, mount) for mount in instance.mounts]
        self._work.tell(f"wish:{instance.id}", f"fact:{instance.id}")
        return replace(instance, number=number, mounts=tuple(mounts), operation=None)

    async def give(self, id: InstanceId, address: Address, *, unique: bool) -> None:
        """Write the address."""
        await self._set(id, {"address": codec.address.encode(address), "ip": address.ip if unique else None})

    async def expired(self, now: datetime) -> Sequence[InstanceId]:
        """Instances whose lifetime is over and that are not being deleted."""
        query = select(_i.id).where(_i.deleted.is_(False), _i.expires <= codec.micros(now))
        return [InstanceId(row.id) for row in await self._work.rows(query)]

    async def get(self, id: InstanceId) -> Instance:
        """One instance."""
        return await self._one(_i.id == id, id)

    async def named(self, project: ProjectId, name: str) -> Instance:
        """One instance by name."""
        return await self._one(and_(_i.project == project, _i.name == name), name)

    async def numbered(self, number: int) -> Instance:
        """By the number that it was given."""
        return await self._one(and_(_i.number == number, _i.spare.is_(False)), str(number))

    async def page(
        self,
        projects: Collection[ProjectId] | None,
        cursor: str | None,
        limit: int,
        labels: Sequence[tuple[str, str]] = (),
        prefix: str = "",
        name: str = "",
    ) -> Page[Instance]:
        """Oldest first, those with all of the labels."""
        mine = owned(_i.project, projects)
        query = _labelled(_SELECT.where(mine, _i.spare.is_(False)), labels)
        if prefix:
            query = query.where(_i.id.startswith(prefix, autoescape=True))
        if name:
            query = query.where(_i.name == name)
        query = keyset.after(query, instances, cursor, limit)
        rows = await self._work.rows(query)
        shown = rows[: max(1, limit)]
        if not shown:
            return Page((), None)
        here = keyset.between(instances, shown[0], shown[-1])
        mounts = await claims.mounts(self._work, and_(mine, here))
        more = len(rows) > len(shown)
        return Page(
            tuple(_decode(row, mounts) for row in shown),
            keyset.encode(shown[-1].created, shown[-1].id) if more else None,
        )

    async def all(self) -> Sequence[Instance]:
        """Every instance, oldest first."""
        rows = await self._work.rows(_SELECT.order_by(_i.created, _i.id))
        mounts = await claims.mounts(self._work, true())
        return [_decode(row, mounts) for row in rows]

    async def spares(self) -> Sequence[Instance]:
        """Those that nobody has asked for yet, oldest first."""
        return [_decode(row, {}) for row in await self._work.rows(_SELECT.where(is_spare).order_by(_i.created, _i.id))]

    async def having(self, policy: Literal["health", "standby"]) -> Sequence[Instance]:
        """Those with that policy, oldest first; the database finds them, in the text that `codec` writes."""
        those = _i.spec.contains(_HAVING.format(policy), autoescape=True)
        rows = await self._work.rows(_SELECT.where(those).order_by(_i.created, _i.id))
        mounts = await claims.mounts(self._work, those) if rows else {}
        return [_decode(row, mounts) for row in rows]

    async def claim(self, instance: Instance) -> None:
        """A spare becomes this instance."""
        row: dict[str, Any] = {"project": instance.project, "name": instance.name}
        row |= {"created": codec.micros(instance.created), **_of_spec(instance.spec), **_of_intent(instance.intent)}
        query = update(instances).where(_i.id == instance.id, is_spare).values(**row)
        await self._work.revise(query, instance.id, "spare instance")
        await self._label(instance.id, instance.spec)
        self._work.tell(f"wish:{instance.id}", f"fact:{instance.id}")

    async def want(self, id: InstanceId, intent: Intent) -> None:
        """Write the intent."""
        await self._set(id, _of_intent(intent))
        self._work.tell(f"wish:{id}")

    async def rename(self, id: InstanceId, name: str, spec: Spec) -> None:
        """Write name and spec."""
        await self._set(id, {"name": name, **_of_spec(spec)})
        await self._work.change(delete(labels).where(labels.c.instance == id))
        await self._label(id, spec)
        self._work.tell(f"fact:{id}")

    async def saw(self, id: InstanceId, observed: Observed) -> None:
        """Write the observation."""
        await self._set(id, _of_observed(observed))
        self._work.tell(f"fact:{id}")

    async def forget(self, id: InstanceId) -> None:
        """Delete the record; its mounts and labels go with it."""
        await self._work.revise(delete(instances).where(_i.id == id), id, "instance")
        await foreigners.forget(self._work, id)
        self._work.tell(f"fact:{id}")

    async def addresses(self) -> Sequence[str]:
        """Every address given out."""
        return [row.ip for row in await self._work.rows(select(_i.ip).where(_i.ip.is_not(None)))]

    async def usage(self, projects: Collection[ProjectId] | None) -> Usage:
        """Sums over instances that are not deleted, volumes and snapshots; all projects have the spares too."""
        sums = (func.coalesce(func.sum(c), 0) for c in (_i.vcpus, _i.memory, _i.disk))
        query = select(func.count(), *sums).where(_i.deleted.is_(False))
        if projects is not None:
            query = query.where(owned(_i.project, projects), _i.spare.is_(False))
        row = await self._work.row(query)
        count, vcpus, memory, disk = (int(value) for value in row)  # PostgreSQL sums to a Decimal
        sizes = select(func.coalesce(func.sum(volumes.c.size), 0)).where(owned(volumes.c.project, projects))
        held = select(func.count()).select_from(snapshots).where(owned(snapshots.c.project, projects), is_counted)
        disk += int(await self._work.value(sizes))
        return Usage(count, vcpus, memory, disk, int(await self._work.value(held)))

    async def mount(self, id: InstanceId, mount: Mount) -> None:
        """Claim a volume."""
        await claims.take(self._work, id, mount)
        self._work.tell(f"fact:{id}")

    async def mounted(self, id: InstanceId, volume: VolumeId, state: MountState) -> None:
        """Move an attachment to another state."""
        await claims.move(self._work, id, volume, state)
        self._work.tell(f"fact:{id}")

    async def unmount(self, id: InstanceId, volume: VolumeId) -> None:
        """Give the claim up."""
        await claims.drop(self._work, id, volume)
        self._work.tell(f"fact:{id}")

    async def using(self, digest: Digest) -> Sequence[InstanceId]:
        """The instances made from an image, oldest first."""
        query = select(_i.id).where(_i.image == digest).order_by(_i.created, _i.id)
        return [row.id for row in await self._work.rows(query)]

    async def _one(self, which: ColumnElement[bool], subject: str) -> Instance:
        row = await self._work.row(_SELECT.add_columns(_mounted).where(which))
        if row is None:
            raise NotFound("there is no such instance", subject=subject)
        *row, mounted = row
        return _decode(row, await claims.mounts(self._work, _i.id == row[0]) if mounted else {})

    async def _set(self, id: InstanceId, values: Mapping[str, Any]) -> None:
        await self._work.revise(update(instances).where(_i.id == id).values(**values), id, "instance")

    async def _label(self, id: InstanceId, spec: Spec) -> None:
        rows = [{"mark": mark, "instance": id} for mark in codec.marks(spec.labels)]
        if rows:
            await self._work.change(insert(labels).values(rows))


def _of_spec(spec: Spec) -> dict[str, Any]:
    text = codec.spec.encode(spec)
    return {"spec": text, "image": spec.image, "vcpus": spec.vcpus, "memory": spec.memory, "disk": spec.disk} | {
        "spare": spec.bare and bool(spec.origin)
    }


def _of_intent(intent: Intent) -> dict[str, Any]:
    expires = codec.micros(intent.expires) if intent.expires is not None else None
    return {"intent": codec.intent.encode(intent), "deleted": intent.deleted, "expires": expires}


def _of_observed(observed: Observed) -> dict[str, Any]:
    return {"observed": codec.observed.encode(observed), "phase": observed.phase.value}


def _labelled(query: Select[Any], wanted: Sequence[tuple[str, str]]) -> Select[Any]:
    for mark in codec.marks(wanted):
        query = query.where(_i.id.in_(select(labels.c.instance).where(labels.c.mark == mark)))
    return query


def _decode(row: Any, mounts: Mapping[str, list[Mount]]) -> Instance:
    id, number, project, name, text, intent, observed, host, created, address, operation = row
    spec = codec.spec.decode(text)
    return Instance(
        id=InstanceId(id),
        number=number,
        project=ProjectId(project),
        name=name,
        spec=spec,
        intent=codec.intent.decode(intent),
        observed=codec.observed.decode(observed),
        host=HostId(host),
        created=codec.moment(created),
        address=codec.address.decode(address) if address is not None else None,
        mounts=tuple(with_overlay(mount, spec) for mount in mounts.get(id, ())),
        operation=OperationId(operation) if operation is not None else None,
    )
