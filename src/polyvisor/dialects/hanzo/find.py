"""What an id of this dialect names. Of another organization's machine it is said that there is none; another
organization may not be used, whether it is there or not (hanzo.md §1.2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from polyvisor.dialects.hanzo.table import Call
from polyvisor.dialects.kit import names
from polyvisor.engine import Engine
from polyvisor.model.faults import Forbidden, NotFound
from polyvisor.model.foreign import Foreign
from polyvisor.model.identity import Project
from polyvisor.model.ids import ProjectId, is_id
from polyvisor.model.instance import Instance
from polyvisor.model.principal import SYSTEM, Action, Principal
from polyvisor.model.volume import Volume

DIALECT = "hanzo"
VM, VOLUME, ORGANIZATION, USER, TOKEN = "vm_", "vol_", "org_", "user_", "tok_"
"""What ids begin with; the rest is ours."""
LONGEST_NAME = 64
Kept = dict[str, Any]


def named(name: str, kind: str, **remainder: object) -> tuple[str, Foreign | None]:
    """Our name for something and what is kept with it, see the kit. :raise Invalid:"""
    return names.named(DIALECT, name, kind, **remainder)


async def kept_of(core: Engine, ids: Sequence[str]) -> dict[str, Kept]:
    """What the dialect keeps with things, by id; nothing of those made elsewhere."""
    found = await core.foreigners.remainders(DIALECT, ids)
    return {id: json.loads(found[id]) if found.get(id) else {} for id in ids}


def name_of(thing: Instance | Volume | Project, kept: Kept) -> str:
    """What it is called here: our name, unless its id has to stand for one that ours cannot be."""
    return str(kept.get("name", thing.name)) if thing.name == thing.id else thing.name


async def vm(call: Call, id: str, action: Action = Action.INSTANCE_VIEW) -> Instance:
    """:raise NotFound: it is in no organization of the caller's. :raise Forbidden: his role there is too little."""
    return await vm_for(call.core, call.principal, id, action)


async def vm_for(core: Engine, principal: Principal, id: str, action: Action) -> Instance:
    """Likewise, for a caller who came by another door."""
    fault = NotFound("VM not found", field="vmId", subject=id[:80])
    ours = id.removeprefix(VM)
    if not id.startswith(VM) or not is_id(ours):
        raise fault
    try:
        instance = await core.instances.get(SYSTEM, ours)
    except NotFound:
        raise fault from None
    if instance.spare or not _member(principal, instance.project):
        raise fault
    _require(principal, action, instance.project)
    return instance


async def volume(call: Call, id: str, action: Action = Action.VOLUME_VIEW) -> Volume:
    """Likewise."""
    fault = NotFound("Volume not found", field="volumeId", subject=id[:80])
    ours = id.removeprefix(VOLUME)
    if not id.startswith(VOLUME) or not is_id(ours):
        raise fault
    try:
        found = await call.core.volumes.get(SYSTEM, ours)
    except NotFound:
        raise fault from None
    if not _member(call.principal, found.project):
        raise fault
    _require(call.principal, action, found.project)
    return found


async def organization(call: Call, id: str, action: Action) -> Project:
    """:raise Forbidden: the caller is no member of it, or his role is too little."""
    ours = id.removeprefix(ORGANIZATION)
    fault = Forbidden("You are not a member of this organization", field="organizationId")
    if not id.startswith(ORGANIZATION) or not is_id(ours):
        raise fault
    try:
        project = await call.core.projects.get(SYSTEM, ours)
    except NotFound:
        raise fault from None
    if project.id != ours or not _member(call.principal, project.id):
        raise fault
    _require(call.principal, action, project.id)
    return project


def _member(principal: Principal, project: ProjectId) -> bool:
    return principal.operator or bool(principal.reach.get(project))


def _require(principal: Principal, action: Action, project: ProjectId) -> None:
    if not principal.may(action, project):
        noun, _, verb = action.partition(".")
        raise Forbidden(f"Your role or token does not allow to {verb} {noun}s here")
