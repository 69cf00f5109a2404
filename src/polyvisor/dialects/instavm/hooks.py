"""Webhooks as they are kept: endpoints, how far each has read, and deliveries (instavm.md §1.15).

How far an endpoint has read is a row of its own, which the dispatcher alone writes: what its owner changes meanwhile is
not lost. It is written in the transaction that adds the deliveries of what was read, so none is lost and none is made
twice.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from polyvisor.dialects.instavm import vms
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.dialects.instavm.vms import stamp
from polyvisor.model.faults import Forbidden, NotFound, OverQuota
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId, mint
from polyvisor.model.principal import Action

ENDPOINT, CURSOR, DELIVERY = "webhook", "webhook-cursor", "webhook-delivery"
MOST = 20
"""Endpoints of one project."""
MOST_DUE = 50
"""Deliveries that wait for one endpoint; what happens meanwhile waits in the log of events."""
_DUE = "due:"


class State(StrEnum):
    """Where a delivery stands; the last two are for good."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`timeout` is in seconds. `verified`: when it answered a challenge last."""

    id: str
    project: ProjectId
    created: datetime
    url: str
    description: str
    patterns: Sequence[str]
    timeout: int
    retries: int
    secret: str = field(repr=False)
    enabled: bool = True
    verified: datetime | None = None
    key: int = 0

    def row(self) -> Row:
        """As it is kept."""
        told = {name: one for name, one in asdict(self).items() if name not in ("id", "project", "key")}
        told |= {"created": self.created.isoformat(), "verified": self.verified and self.verified.isoformat()}
        return Row(DIALECT, ENDPOINT, self.id, self.project, self.id, json.dumps(told), self.key)


@dataclass(frozen=True, slots=True)
class Delivery:
    """`body` is what is sent each time. `due` is when it is tried next, `last` when it was tried; `status` and `error`
    are of that time. `replay` is the delivery that it repeats."""

    id: str
    project: ProjectId
    endpoint: str
    event: str
    kind: str
    body: str = field(repr=False)
    created: datetime
    state: State
    due: datetime
    attempts: int = 0
    last: datetime | None = None
    status: int | None = None
    error: str = ""
    replay: str = ""
    key: int = 0

    def row(self) -> Row:
        """As it is kept: those that wait are found apart from the others."""
        told = {name: one for name, one in asdict(self).items() if name not in ("id", "project", "key")}
        told |= {"created": self.created.isoformat(), "due": self.due.isoformat()}
        told |= {"last": self.last and self.last.isoformat()}
        subject = f"{_DUE}{self.endpoint}" if self.state is State.PENDING else self.endpoint
        return Row(DIALECT, DELIVERY, self.id, self.project, subject, json.dumps(told), self.key)


def _endpoint(row: Row) -> Endpoint:
    data = json.loads(row.data)
    data |= {"created": datetime.fromisoformat(data["created"])}
    data |= {"verified": datetime.fromisoformat(data["verified"]) if data["verified"] else None}
    return Endpoint(row.name, row.project, key=row.key, **data)


def _delivery(row: Row) -> Delivery:
    data = json.loads(row.data)
    data |= {name: datetime.fromisoformat(data[name]) for name in ("created", "due")}
    data |= {"last": datetime.fromisoformat(data["last"]) if data["last"] else None, "state": State(data["state"])}
    return Delivery(row.name, row.project, key=row.key, **data)


def new_secret() -> str:
    """What deliveries are signed with."""
    return f"whsec_{secrets.token_urlsafe(32)}"


# -- endpoints ---------------------------------------------------------------------------------------------------------


def require(call: Call, project: ProjectId) -> None:
    """Who changes an endpoint makes the server tell of machines: that takes more than to look at them.

    :raise Forbidden:
    """
    for action in (Action.EVENT_VIEW, Action.INSTANCE_CREATE):
        if not call.principal.may(action, project):
            raise Forbidden("this credential may not change webhooks")


async def endpoints(call: Call) -> list[Endpoint]:
    """Those that the caller may see, oldest first."""
    rows = await call.core.rows.of(DIALECT, [ENDPOINT])
    return [_endpoint(row) for row in rows if call.principal.may(Action.EVENT_VIEW, row.project)]


async def find(call: Call, id: str) -> Endpoint:
    """:raise NotFound: there is none, or it is another's."""
    if "\0" not in id:
        for row in await call.core.rows.of(DIALECT, [ENDPOINT], [id]):
            if call.principal.may(Action.EVENT_VIEW, row.project):
                return _endpoint(row)
    raise NotFound(f"Webhook endpoint {id[:80]} not found", subject=id[:80])


async def add(call: Call, endpoint: Endpoint) -> Endpoint:
    """It hears of what happens from now on. :raise OverQuota:"""
    require(call, endpoint.project)
    async with vms.one_at_a_time(f"webhooks of {endpoint.project}"):
        there = [one for one in await endpoints(call) if one.project == endpoint.project]
        if len(there) >= MOST:
            raise OverQuota(f"a project has {MOST} webhook endpoints at most")
        cursor = _cursor(endpoint, await call.core.courier.last())
        added, _ = await call.core.rows.add(call.principal, [endpoint.row(), cursor], Action.INSTANCE_CREATE)
    return replace(endpoint, key=added.key)


async def save(call: Call, endpoint: Endpoint) -> None:
    """As its owner wants it."""
    require(call, endpoint.project)
    await call.core.rows.save(call.principal, [endpoint.row()], Action.INSTANCE_CREATE)


async def skip(call: Call, endpoint: Endpoint) -> None:
    """What has happened until now is none of its business any more: it was off."""
    (row,) = await call.core.rows.of(DIALECT, [CURSOR], [endpoint.id])
    await call.core.courier.write([replace(_cursor(endpoint, await call.core.courier.last()), key=row.key)])


async def remove(call: Call, endpoint: Endpoint) -> None:
    """With its deliveries."""
    require(call, endpoint.project)
    cursors = await call.core.rows.of(DIALECT, [CURSOR], [endpoint.id])
    await call.core.rows.remove(call.principal, [endpoint.row(), *cursors], Action.INSTANCE_CREATE)
    await call.core.courier.forget([one.row() for one in await deliveries(call, [endpoint.id])])


def _cursor(endpoint: Endpoint, seq: int) -> Row:
    return Row(DIALECT, CURSOR, endpoint.id, endpoint.project, endpoint.id, json.dumps({"seq": seq}))


async def cursors(call: Call) -> dict[str, tuple[Row, int]]:
    """How far each endpoint has read, by its id."""
    return {row.name: (row, json.loads(row.data)["seq"]) for row in await call.core.rows.of(DIALECT, [CURSOR])}


async def advance(call: Call, cursor: Row, seq: int, made: Sequence[Delivery]) -> None:
    """It has read so far, and these are to be delivered. :raise NotFound: it is gone."""
    await call.core.courier.write([replace(cursor, data=json.dumps({"seq": seq}))], [one.row() for one in made])


# -- deliveries --------------------------------------------------------------------------------------------------------


def new_delivery(endpoint: Endpoint, event: str, kind: str, body: str, replay: str = "") -> Delivery:
    """One that is due at once."""
    now = vms.now()
    return Delivery(
        f"whd_{mint()}", endpoint.project, endpoint.id, event, kind, body, now, State.PENDING, now, replay=replay
    )


async def due(call: Call, ids: Collection[str]) -> list[Delivery]:
    """Those that wait for some endpoints, oldest first."""
    return [_delivery(row) for row in await call.core.rows.of(DIALECT, [DELIVERY], [_DUE + id for id in ids])]


async def enqueue(call: Call, delivery: Delivery) -> None:
    """One that the owner asks for. :raise OverQuota: too many wait already."""
    require(call, delivery.project)
    if len(await due(call, [delivery.endpoint])) >= MOST_DUE:
        raise OverQuota(f"{MOST_DUE} deliveries wait for this endpoint already")
    await call.core.courier.write(added=[delivery.row()])


async def deliveries(call: Call, ids: Collection[str]) -> list[Delivery]:
    """All of some endpoints, newest first."""
    subjects = [subject for id in ids for subject in (id, _DUE + id)]
    rows = await call.core.rows.of(DIALECT, [DELIVERY], subjects)
    return [_delivery(row) for row in reversed(rows)]


async def forget(call: Call, most: int, before: datetime) -> None:
    """What is older, and what is more than that of one endpoint, if it does not wait; and what nobody has any more."""
    rows = await call.core.rows.of(DIALECT, [DELIVERY])
    counts = {one.id: 0 for one in await endpoints(call)}  # after the deliveries: one of those may be of a new one
    gone: list[Row] = []
    for one in map(_delivery, reversed(rows)):
        if one.endpoint not in counts:
            gone.append(one.row())
        elif one.state is not State.PENDING:
            counts[one.endpoint] += 1
            if counts[one.endpoint] > most or one.created < before:
                gone.append(one.row())
    if gone:
        await call.core.courier.forget(gone)


# -- showing -----------------------------------------------------------------------------------------------------------


def told(endpoint: Endpoint, *, secret: bool = False) -> dict[str, Any]:
    """An endpoint; its secret is told once."""
    shown = {
        "id": endpoint.id,
        "url": endpoint.url,
        "status": "active" if endpoint.enabled else "disabled",
        "enabled": endpoint.enabled,
        "description": endpoint.description or None,
        "event_patterns": list(endpoint.patterns),
        "timeout_seconds": endpoint.timeout,
        "max_retries": endpoint.retries,
        "secret_hint": f"whsec_…{endpoint.secret[-4:]}",
        "verified_at": stamp(endpoint.verified),
        "created_at": stamp(endpoint.created),
    }
    return {**shown, "secret": endpoint.secret} if secret else shown


def told_delivery(one: Delivery) -> dict[str, Any]:
    """A delivery."""
    return {
        "id": one.id,
        "endpoint_id": one.endpoint,
        "event_id": one.event,
        "event_type": one.kind,
        "status": one.state,
        "attempt_count": one.attempts,
        "created_at": stamp(one.created),
        "last_attempt_at": stamp(one.last),
        "next_attempt_at": stamp(one.due) if one.state is State.PENDING else None,
        "response_status": one.status,
        "error_message": one.error or None,
        "replay_of": one.replay or None,
        "payload": json.loads(one.body),
    }
