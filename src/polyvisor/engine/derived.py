"""Grants that follow from the rows of a dialect, such as memberships of groups and what groups may do.

What the rows say is the dialect's: a pure rule from rows to grants. Rows and grants are written together, and what
follows from an edit is the caller's to give and to take, as if it had been granted one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from polyvisor.access.grants import require
from polyvisor.model.faults import Forbidden
from polyvisor.model.foreign import Row
from polyvisor.model.identity import Grant
from polyvisor.model.ids import ProjectId, UserId
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.store import Store, Unit

Held = tuple[UserId, ProjectId, Action]
Rule = Callable[[Sequence[Row]], Iterable[Held]]


@dataclass(frozen=True, slots=True)
class Edit:
    """Rows of a dialect that come, change and go. `action` is what the caller has to be allowed in their projects."""

    action: Action
    added: Sequence[Row] = ()
    changed: Sequence[Row] = ()
    gone: Sequence[Row] = ()


class DerivedEngine:
    """Change what grants follow from."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def change(
        self, principal: Principal, dialect: str, kinds: Collection[str], edit: Edit, rule: Rule
    ) -> Sequence[Row]:
        """Do an edit of rows of these tables, all that `rule` is about, and let the grants follow. What was added.

        :raise Forbidden: what follows is not all the caller's to give or to take. :raise Exists: :raise NotFound:
        """
        for row in (*edit.added, *edit.changed, *edit.gone):
            require(principal, edit.action, row.project)
        async with self._store.write() as unit:
            before = set(rule(await unit.rows.of(dialect, kinds)))
            added = [await unit.rows.add(row) for row in edit.added]
            for row in edit.changed:
                await unit.rows.save(row)
            for row in edit.gone:
                await unit.rows.remove(row.key)
            after = set(rule(await unit.rows.of(dialect, kinds)))
            _permit(principal, after - before, Action.GRANT_ASSIGN)
            _permit(principal, before - after, Action.GRANT_REVOKE)
            await _settle(unit, dialect, after)
        return added


def _permit(principal: Principal, moved: Iterable[Held], verb: Action) -> None:
    for _, project, action in sorted(moved):
        if not principal.may(verb, project) or not principal.may(action, project):
            raise Forbidden(f"nobody gives or takes what he does not hold: {action}", field="actions")


async def _settle(unit: Unit, dialect: str, wanted: Collection[Held]) -> None:
    """Also puts right what has come apart, in nobody's name: a user may have gone since its row was read."""
    users = {user.id for user in await unit.identities.users()}
    have = {(one.user, one.project, one.action): one for one in await unit.identities.derived(dialect)}
    for held in sorted(wanted):
        if held not in have and held[0] in users:
            await unit.identities.put_grant(Grant(*held, origin=dialect))
    for held, grant in have.items():
        if held not in wanted:
            await unit.identities.remove_derived(grant)
