"""`/m`: pools and what groups may do there, and media (velocity.md §1.4)."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from polyvisor.dialects.velocity import wire
from polyvisor.dialects.velocity.errors import Refusal
from polyvisor.dialects.velocity.media import mid_of, named, names_of
from polyvisor.dialects.velocity.table import Call, Codes, Routes
from polyvisor.engine.rights import Assigned
from polyvisor.model.faults import Busy, Exists, Forbidden, Invalid, NoCapacity, NotFound, OverQuota
from polyvisor.model.identity import Project
from polyvisor.model.principal import Action
from polyvisor.model.spec import MAX_DISK
from polyvisor.model.units import Bytes
from polyvisor.model.volume import DATA, PoolRights, Volume, VolumeState, check_kind

routes = Routes()
_MOST = 100_000
_TYPES = {DATA: "DISK"}  # what was made with a file system is a disk


async def group_of(call: Call, gid: int, code: int) -> Project:
    """:raise Refusal: there is none of that number."""
    try:
        return await call.core.numbers.project(gid)
    except NotFound as fault:
        raise Refusal(code) from fault


def need(call: Call, action: Action, project: Project, code: int) -> None:
    """:raise Refusal: the caller may not do that there."""
    if not call.principal.may(action, project.id):
        raise Refusal(code)


def _pool_named(call: Call, mpid: int, code: int) -> str:
    """How volumes name the pool of that number. :raise Refusal:"""
    try:
        return call.core.pools.numbered(mpid)
    except NotFound as fault:
        raise Refusal(code) from fault


# -- pools ---------------------------------------------------------------------------------------------------------


@routes.add("PUT /m/pool/assign", wire.AssignPool, {Forbidden: 6200})
async def assign_pool(call: Call) -> object:
    """Let a group use a pool, in the place of what it might do before."""
    body = call.body
    group = await group_of(call, body.gid, 6210)
    need(call, Action.POOL_ASSIGN, group, 6200)
    pool = _pool_named(call, body.mpid, 6211)
    rights = PoolRights(group.id, pool, body.quota, writes=body.write, manages=body.manage)
    await call.core.rights.assign(call.principal, rights)
    return None


@routes.add("DELETE /m/pool/assign", wire.RevokePool, {Forbidden: 6300})
async def revoke_pool(call: Call) -> object:
    """Its media stay."""
    group = await group_of(call, call.body.gid, 6310)
    need(call, Action.POOL_REVOKE, group, 6300)
    await call.core.rights.revoke(call.principal, group, _pool_named(call, call.body.mpid, 6311))
    return None


@routes.add("POST /m/pool/list", wire.ThisGroup)
async def list_pools(call: Call) -> object:
    """The pools that a group itself may use."""
    group = await group_of(call, call.body.gid, 7110)
    need(call, Action.POOL_VIEW, group, 7100)
    found = await call.core.rights.of(group)
    return {"pools": [{"mpid": a.pool.number, "name": a.pool.name, **_flags(a)} for a in found]}


def _flags(assigned: Assigned) -> dict[str, object]:
    return {"write": assigned.rights.writes, "manage": assigned.rights.manages}


# -- media ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A medium that is to be made."""

    group: Project
    pool: str
    name: str
    type: str


async def _wanted(call: Call, mpid: int, gid: int, name: str, kind: str, codes: tuple[int, int, int, int]) -> _Wanted:
    """`codes`: no such group, no such pool, no permission, no right to manage. :raise Refusal: also 400 for a name."""
    no_group, no_pool, forbidden, unmanaged = codes
    group = await group_of(call, gid, no_group)
    pool = _pool_named(call, mpid, no_pool)
    need(call, Action.VOLUME_CREATE, group, forbidden)
    rights = {one.pool.number: one.rights for one in await call.core.rights.of(group)}
    if mpid not in rights or not rights[mpid].manages:
        raise Refusal(unmanaged)
    return _Wanted(group, pool, name, kind)


@routes.add("PUT /m/media/create", wire.NewMedium, {Exists: 8220, OverQuota: 8221, NoCapacity: 8221})
async def create_medium(call: Call) -> object:
    """A medium of zeros."""
    body = call.body
    wanted = await _wanted(call, body.mpid, body.gid, body.name, body.type, (8210, 8211, 8200, 8201))
    who = call.principal.in_project(wanted.group.id)
    name, foreign = named(body.name)
    made = await call.core.media.create_blank(
        who, name, Bytes(body.size), kind=body.type, pool=wanted.pool, foreign=foreign
    )  # fmt: skip
    return {"mid": mid_of(made), "size": made.size}


_HEADERS = (
    ("content-length", 9210), ("x-velocity-mpid", 9212), ("x-velocity-gid", 9213), ("x-velocity-name", 9214),
    ("x-velocity-type", 9215), ("x-velocity-readonly", 9216),
)  # fmt: skip
_UPLOAD: Codes = {Exists: 9220, OverQuota: 9221, NoCapacity: 9221, Invalid: 9222}


@routes.add("PUT /m/media/upload", None, _UPLOAD, streams=True)
async def upload_medium(call: Call) -> object:
    """A medium of the bytes that come, whatever their number."""
    given = _headers(call.request)
    length, mpid, gid = (_count(given, name, code) for name, code in _HEADERS[:3])
    if not 1 <= length <= MAX_DISK:
        raise Refusal(9210, f"content-length must be 1 to {MAX_DISK}")
    read_only = given["x-velocity-readonly"].lower()
    if read_only not in ("true", "false"):
        raise Refusal(9216, "must be true or false")
    name, kind = given["x-velocity-name"], given["x-velocity-type"]
    try:
        ours, foreign = named(name)
        check_kind(kind)
    except Invalid as fault:
        raise Refusal(9214 if fault.field == "name" else 9215, fault.public) from fault
    wanted = await _wanted(call, mpid, gid, name, kind, (9217, 9218, 9200, 9201))
    who = call.principal.in_project(wanted.group.id)
    made = await call.core.media.upload(
        who, ours, call.request.stream(), length, kind=kind, pool=wanted.pool, read_only=read_only == "true",
        foreign=foreign,
    )  # fmt: skip
    return {"mid": mid_of(made), "size": made.size}


def _headers(request: Request) -> dict[str, str]:
    found = {name: _text(request.headers.get(name, "")).strip() for name, _ in _HEADERS}
    for name, code in _HEADERS:
        if not found[name]:
            raise Refusal(code, name)
    return found


def _text(value: str) -> str:
    """A header's value as its sender meant it, who had to choose an encoding: UTF-8, else what HTTP once said."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def _count(given: dict[str, str], name: str, code: int) -> int:
    text = given[name]
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Refusal(code, f"{name} must be a number")
    return int(text)


@routes.add("DELETE /m/media", wire.ThisMedium, {Busy: 18320, Forbidden: 18300})
async def remove_medium(call: Call) -> object:
    """One that no machine has."""
    volume = await medium(call, call.body.mid, 18310)
    if not call.principal.may(Action.VOLUME_DELETE, volume.project):
        raise Refusal(18300)
    numbers = call.core.pools.numbers()
    if volume.pool not in numbers:
        raise Refusal(18310)  # of a pool that the operator has taken out of the settings
    group = next(one for one in await call.core.projects.tree() if one.id == volume.project)
    if numbers[volume.pool] not in {one.pool.number for one in await call.core.rights.of(group) if one.rights.manages}:
        raise Refusal(18301)
    await call.core.volumes.delete(call.principal, volume.id)
    return None


async def medium(call: Call, mid: str, code: int) -> Volume:
    """The volume of that MID, whose group's it may be: whether the caller may do something with it is asked then.

    :raise Refusal:
    """
    for volume in await call.core.numbers.volumes():
        if mid_of(volume) == mid.upper():
            return volume
    raise Refusal(code)


@routes.add("POST /m/media/list", wire.ThisGroup)
async def list_media(call: Call) -> object:
    """The media of a group itself. One is read-only, too, where the group may not write to the pool."""
    group = await group_of(call, call.body.gid, 10110)
    need(call, Action.VOLUME_VIEW, group, 10100)
    numbers = call.core.pools.numbers()
    writes = {one.pool.number for one in await call.core.rights.of(group) if one.rights.writes}
    page = await call.core.volumes.list(call.principal, None, _MOST, project=group.id)
    names = await names_of(call.core, page.items)
    return {
        "media": [
            {
                "mid": mid_of(one), "mpid": numbers[one.pool], "name": names[one.id],
                "type": _TYPES.get(one.kind, one.kind), "size": one.size,
                "readonly": one.read_only or numbers[one.pool] not in writes,
            }
            for one in page.items
            if one.state is VolumeState.READY and one.pool in numbers
        ]
    }  # fmt: skip
