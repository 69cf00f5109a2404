"""In whose name something is done later: remembered by name, looked up again when it is done."""

from __future__ import annotations

from datetime import datetime

from polyvisor.access.credentials import as_now
from polyvisor.model.faults import Unauthenticated
from polyvisor.model.principal import EVERYTHING, SYSTEM, Principal
from polyvisor.model.task import Owner
from polyvisor.ports.store import Unit


def owner_of(principal: Principal) -> Owner:
    """Who asks, to be remembered."""
    actions = None if principal.whole else principal.actions
    return Owner(principal.name, principal.project, principal.user, principal.operator, actions)


async def owner_now(unit: Unit, owner: Owner, now: datetime) -> Principal:
    """The same with what he may do now. :raise Unauthenticated: he is not there any more."""
    actions = EVERYTHING if owner.actions is None else owner.actions
    if owner.user is None and owner.name == SYSTEM.name and owner.project == SYSTEM.project:
        return SYSTEM
    if owner.user is not None:
        then = Principal(owner.name, owner.project, actions, user=owner.user)
        try:
            return await as_now(unit, then)
        except Unauthenticated as fault:
            raise Unauthenticated(f"its owner {owner.name} is not a user any more") from fault
    for key in await unit.identities.keys():
        alive = key.expires is None or key.expires > now
        if alive and (key.name, key.project, key.operator) == (owner.name, owner.project, owner.operator):
            held = actions if key.scopes is None else actions & key.scopes
            below = [id for id, _ in await unit.identities.below([key.project])]
            reach = {} if key.operator else dict.fromkeys(below, EVERYTHING)
            return Principal(key.name, key.project, held, key.operator, reach)
    raise Unauthenticated(f"the API key {owner.name} that it belongs to is not there any more")
