"""Who one is, keys, the audit log, and what of upstream's platform is not here (instavm.md §1.15)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from polyvisor.dialects.instavm import names
from polyvisor.dialects.instavm.door import Call, Caller
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.dialects.instavm.records import find_session
from polyvisor.dialects.instavm.vms import stamp
from polyvisor.dialects.instavm.wire import Text
from polyvisor.engine.audit import RECORDED
from polyvisor.engine.keys import KeyRequest
from polyvisor.model.faults import Invalid, NotFound, Unsupported
from polyvisor.model.foreign import Row
from polyvisor.model.identity import ApiKey, AuditEntry, AuditFilter
from polyvisor.model.ids import check_name, is_id
from polyvisor.model.ssh import SshKey

router = APIRouter(prefix="/v1")
absent = APIRouter()
KEY = "key"
_PAGE = 200
_MOST = 2**63 - 1  # a store counts no further
_MOST_PAGES = 50  # of the log, for one answer

# -- who one is --------------------------------------------------------------------------------------------------------


@router.get("/users/me")
async def me(call: Caller) -> dict[str, Any]:
    """The caller. Who is known by no address has none that mail would reach."""
    name = call.principal.name
    mail = name if "@" in name else f"{name}@localhost"
    return {"id": call.principal.user or "", "email": mail, "name": name, "is_verified": True}


# -- keys --------------------------------------------------------------------------------------------------------------


class KeyBody(BaseModel):
    """What a key is called."""

    description: Text | None = None


async def _keys(call: Call) -> list[tuple[Row, ApiKey]]:
    """The caller's, with their numbers."""
    found = {one.id: one for one in await call.core.keys.list(call.principal)}
    rows = {row.name: row for row in await call.core.rows.of(DIALECT, [KEY], list(found))}
    if found.keys() - rows.keys():
        await call.core.rows.ensure([Row(DIALECT, KEY, one.id, one.project, one.id) for one in found.values()])
        rows = {row.name: row for row in await call.core.rows.of(DIALECT, [KEY], list(found))}
    return [(rows[id], key) for id, key in found.items()]


async def _key(call: Call, number: int) -> tuple[Row, ApiKey]:
    """:raise NotFound:"""
    for row, key in await _keys(call):
        if row.key == number:
            return row, key
    raise NotFound(f"API key {number} not found")


def _told(row: Row, key: ApiKey) -> dict[str, Any]:
    return {
        "id": row.key,
        "description": key.name,
        "created_at": stamp(key.created),
        "last_used_at": stamp(key.used),
        "expires_at": stamp(key.expires),
        "is_active": True,
    }


def _name(text: str | None) -> str:
    """:raise Invalid:"""
    if not text:
        return "key"
    try:
        return check_name(text.replace(" ", "-"), "description")
    except Invalid as fault:
        raise Invalid(fault.public, field="description") from fault


@router.post("/api-keys/")
async def create_key(call: Caller, body: KeyBody) -> dict[str, Any]:
    """A key of the caller's, which does what the caller may. It is told this once."""
    secret, record = await call.core.keys.create(call.principal, KeyRequest(_name(body.description)))
    row, _ = next(pair for pair in await _keys(call) if pair[1].id == record.id)
    return {**_told(row, record), "key": secret, "api_key": secret}


@router.get("/api-keys/")
async def list_keys(call: Caller) -> list[dict[str, Any]]:
    """The caller's, without what opens."""
    return [_told(row, key) for row, key in await _keys(call)]


@router.get("/api-keys/{number}")
async def get_key(call: Caller, number: int) -> dict[str, Any]:
    """One."""
    return _told(*await _key(call, number))


@router.patch("/api-keys/{number}")
async def update_key(call: Caller, number: int, body: KeyBody) -> dict[str, Any]:
    """Another description."""
    row, key = await _key(call, number)
    if body.description is not None:
        name = _name(body.description)
        key = await call.core.keys.update(call.principal, key.id, name=name, expires=key.expires, fence=key.fence)
    return _told(row, key)


@router.delete("/api-keys/{number}")
async def delete_key(call: Caller, number: int) -> dict[str, Any]:
    """It opens nothing any more."""
    row, key = await _key(call, number)
    await call.core.keys.delete(call.principal, key.id)
    return {"id": row.key, "status": "deleted"}


# -- SSH keys ----------------------------------------------------------------------------------------------------------


class SshKeyBody(BaseModel):
    """One line, as OpenSSH writes it."""

    public_key: Text


def _told_ssh(key: SshKey) -> dict[str, Any]:
    return {
        "id": key.number,
        "fingerprint": key.fingerprint,
        "comment": key.comment,
        "created_at": stamp(key.created),
    }


@router.post("/ssh-keys")
async def add_ssh_key(call: Caller, body: SshKeyBody) -> dict[str, Any]:
    """Who has the private one comes in by SSH, with what the caller may do then."""
    return _told_ssh(await call.core.ssh_keys.add(call.principal, body.public_key))


@router.get("/ssh-keys")
async def list_ssh_keys(call: Caller) -> dict[str, Any]:
    """The caller's."""
    return {"keys": [_told_ssh(one) for one in await call.core.ssh_keys.list(call.principal)]}


@router.delete("/ssh-keys/{number}")
async def remove_ssh_key(call: Caller, number: int) -> dict[str, Any]:
    """It lets nobody in any more."""
    gone = await call.core.ssh_keys.remove(call.principal, number)
    return {"id": gone.number, "status": "deleted"}


# -- the log -----------------------------------------------------------------------------------------------------------

_GROUPS = {"instance": "vm", "key": "api_key", "ingress": "share"}
_TYPES = {"instance.create": "vm.created", "instance.delete": "vm.terminated", "instance.suspend": "vm.suspended",
          "instance.resume": "vm.resumed", "instance.fork": "vm.cloned"}  # fmt: skip
_DENIED = frozenset({"Forbidden", "Unauthenticated", "Throttled", "OverQuota"})


def _type(action: str) -> str:
    """Our word for what was done as this dialect's."""
    noun, _, verb = action.partition(".")
    return _TYPES.get(action) or f"{_GROUPS.get(noun, noun)}.{verb}"


def _status(entry: AuditEntry) -> str:
    if entry.outcome == "ok":
        return "success"
    return "denied" if entry.outcome in _DENIED else "failure"


def _event(entry: AuditEntry) -> dict[str, Any]:
    kind = _type(entry.action)
    group = kind.partition(".")[0]
    vm = names.vm_id(entry.subject, 1) if group == "vm" and is_id(entry.subject) else None
    return {
        "id": str(entry.seq),
        "created_at": stamp(entry.at),
        "status": _status(entry),
        "event_type": kind,
        "event_group": group,
        "vm_id": vm,
        "session_id": None,
        "resource_type": group,
        "resource_id": vm or entry.subject,
        "actor_type": "user",
        "actor_id": entry.who,
        "event_payload": {"source": entry.source, "detail": entry.detail},
        "error_message": entry.detail if entry.outcome != "ok" else None,
    }


@router.get("/audit/catalog")
async def catalog(call: Caller) -> dict[str, Any]:
    """The events that there may be, by group."""
    found: dict[str, set[str]] = {}
    for verbs in RECORDED.values():
        for action in verbs.values():
            kind = _type(action)
            found.setdefault(kind.partition(".")[0], set()).add(kind)
    return {"catalog": {group: sorted(kinds) for group, kinds in sorted(found.items())}}


@router.get("/audit/events")
async def events(  # noqa: PLR0913 - each is a filter
    call: Caller, event_group: str | None = None, event_type: str | None = None, status: str | None = None,
    vm_id: str | None = None, session_id: str | None = None, user_id: str | None = None,
    cursor: Annotated[int | None, Query(ge=0, lt=_MOST)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:  # fmt: skip
    """The latest, newest first; `next_cursor` leads to those before."""
    if user_id is not None:
        raise Unsupported("user_id: this server knows no users by number; actor_id is a name", field="user_id")
    subject = "" if vm_id is None else names.instance_of(vm_id)
    if session_id is not None:
        subject = (await find_session(call, session_id)).instance or "none"
    wanted = {"event_group": event_group, "event_type": event_type, "status": status}
    found: list[dict[str, Any]] = []
    for _ in range(_MOST_PAGES):
        page = await call.core.audit.list(call.principal, AuditFilter(subject=subject), cursor, _PAGE)
        for entry in page:
            told = _event(entry)
            if all(value in (None, told[name]) for name, value in wanted.items()):
                found.append(told)
                if len(found) > limit:
                    return {"items": found[:limit], "next_cursor": found[limit - 1]["id"]}
        if len(page) < _PAGE:
            return {"items": found, "next_cursor": None}
        cursor = page[-1].seq
    return {"items": found, "next_cursor": str(cursor)}


@router.get("/audit/events/{event_id}")
async def event(call: Caller, event_id: int) -> dict[str, Any]:
    """One."""
    known = 0 <= event_id < _MOST
    for entry in await call.core.audit.list(call.principal, AuditFilter(), event_id + 1, 1) if known else ():
        if entry.seq == event_id:
            return _event(entry)
    raise NotFound(f"Event {event_id} not found")


# -- what is not here --------------------------------------------------------------------------------------------------

ABSENT = {
    "/v1/browser": "browser sessions", "/v1/computeruse": "computer use", "/v1/tapes": "tapes",
    "/v1/recordings": "recordings", "/v1/templates": "templates", "/v1/credits": "credits",
    "/v1/users/me/usage-breakdown": "usage in dollars", "/api/cli-auth": "login by browser",
    "/v1/webhooks/resend": "resend of many webhooks at once",
}  # fmt: skip
"""What upstream has and a self-hosted server has not; each is said so (NOTES.md)."""
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def _add_absent(path: str, what: str) -> None:
    async def answer(request: Request) -> Response:
        return JSONResponse({"detail": f"This server has no {what}"}, 501)

    for pattern in (path, f"{path}/{{rest:path}}"):
        absent.add_api_route(pattern, answer, methods=_METHODS, include_in_schema=False)


for _path, _what in ABSENT.items():
    _add_absent(_path, _what)
