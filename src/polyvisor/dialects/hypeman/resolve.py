"""From what a path names to a thing of ours: exact id, exact name, the beginning of an id (hypeman.md §1.1)."""

from __future__ import annotations

import re

from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.table import Call
from polyvisor.model.face import Face, face
from polyvisor.model.faults import NotFound
from polyvisor.model.ingress import Ingress
from polyvisor.model.instance import Instance
from polyvisor.model.volume import Volume

DIALECT = "hypeman"
VOLUME_ID = "volume"  # the kind of alias that a volume's own id is
_PAGE = 1000
_BEGINNING = re.compile(r"[a-z0-9]{1,24}")


def not_found() -> Refusal:
    """There is no such thing."""
    return Refusal(404, "not_found", "resource not found")


def ambiguous() -> Refusal:
    """There is more than one."""
    return Refusal(409, "ambiguous", "multiple resources match, use full ID")


async def instance(call: Call) -> Instance:
    """The instance that `{id}` names. :raise Refusal:"""
    return await find_instance(call, call.path("id"))


async def find_instance(call: Call, key: str) -> Instance:
    """By id, name or the beginning of an id; one that is being deleted is gone already. :raise Refusal:"""
    found: list[Instance] = []
    if "\0" not in key:
        try:
            found = [await call.core.instances.get(call.principal, key)]
        except NotFound:
            if _BEGINNING.fullmatch(key):
                found = list((await call.core.instances.list(call.principal, None, 2, prefix=key)).items)
    found = [one for one in found if face(one) is not Face.DELETING]
    if len(found) > 1:
        raise ambiguous()
    if not found:
        raise not_found()
    return found[0]


async def ingress(call: Call) -> Ingress:
    """The ingress that `{id}` names: by id, by name, by the beginning of an id. :raise Refusal:"""
    key = call.path("id")
    if "\0" in key:
        raise not_found()
    try:
        return await call.core.ingresses.get(call.principal, key)
    except NotFound:
        found = [one for one in await all_ingresses(call) if one.id.startswith(key)]
    if len(found) > 1:
        raise ambiguous()
    if not found:
        raise not_found()
    return found[0]


async def all_ingresses(call: Call) -> list[Ingress]:
    """Every one that the caller may see, oldest first."""
    found: list[Ingress] = []
    cursor: str | None = None
    while True:
        page = await call.core.ingresses.list(call.principal, cursor, _PAGE)
        found += page.items
        cursor = page.next
        if cursor is None:
            return found


async def volume(call: Call) -> Volume:
    """The volume that `{id}` names. :raise Refusal:"""
    return await find_volume(call, call.path("id"))


async def find_volume(call: Call, key: str) -> Volume:
    """By the id it was made with, our id, or its name. :raise Refusal:"""
    if "\0" in key:
        raise not_found()
    by_alias = await call.core.foreigners.find(call.principal, DIALECT, VOLUME_ID, key)
    if len(by_alias) > 1:
        raise ambiguous()
    try:
        return await call.core.volumes.get(call.principal, by_alias[0] if by_alias else key)
    except NotFound as fault:
        raise not_found() from fault
