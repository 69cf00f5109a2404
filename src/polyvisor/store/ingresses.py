"""Ingresses with their rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, insert, select, true

from polyvisor.model.faults import Exists, NotFound
from polyvisor.model.ids import IngressId, InstanceId, ProjectId
from polyvisor.model.ingress import Guard, Ingress, Rule
from polyvisor.model.query import Page
from polyvisor.store import codec, keyset
from polyvisor.store.tables import ingress_rules, ingresses
from polyvisor.store.work import Work, owned

_LABELS = codec.Codec(tuple[tuple[str, str], ...])
_i = ingresses.c
_r = ingress_rules.c


class SqlIngresses:
    """See `ports.store.Ingresses`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def add(self, ingress: Ingress) -> None:
        """Insert."""
        row: dict[str, Any] = {"id": ingress.id, "project": ingress.project, "name": ingress.name}
        row |= {"labels": _LABELS.encode(ingress.labels), "created": codec.micros(ingress.created)}
        await self._work.insert(insert(ingresses).values(row), ingress.id, missing=ingress.project)
        try:
            for number, rule in enumerate(ingress.rules):
                query = insert(ingress_rules).values(ingress=ingress.id, number=number, **_columns(rule))
                await self._work.insert(query, ingress.id, missing=rule.pinned or ingress.id)
        except (Exists, NotFound):  # the unit may go on, and half an ingress is none
            await self.forget(ingress.id)
            raise

    async def get(self, id: IngressId) -> Ingress:
        """One ingress."""
        return await self._one(_i.id == id, id)

    async def named(self, project: ProjectId, name: str) -> Ingress:
        """One ingress by name."""
        return await self._one(and_(_i.project == project, _i.name == name), name)

    async def page(self, projects: Collection[ProjectId] | None, cursor: str | None, limit: int) -> Page[Ingress]:
        """Oldest first."""
        mine = owned(_i.project, projects)
        rows = await self._work.rows(keyset.after(select(ingresses).where(mine), ingresses, cursor, limit))
        shown = rows[: max(1, limit)]
        more = len(rows) > len(shown)
        return Page(
            tuple(await self._with_rules(shown, _r.ingress.in_([row.id for row in shown]))),
            keyset.encode(shown[-1].created, shown[-1].id) if more else None,
        )

    async def all(self) -> Sequence[Ingress]:
        """Every ingress, oldest first."""
        return await self._with_rules(await self._work.rows(select(ingresses).order_by(_i.created, _i.id)), true())

    async def forget(self, id: IngressId) -> None:
        """Delete the record; its rules go with it."""
        await self._work.revise(delete(ingresses).where(_i.id == id), id, "ingress")

    async def _one(self, which: ColumnElement[bool], subject: str) -> Ingress:
        row = await self._work.row(select(ingresses).where(which))
        if row is None:
            raise NotFound("there is no such ingress", subject=subject)
        return (await self._with_rules([row], _r.ingress == row.id))[0]

    async def _with_rules(self, rows: Sequence[Any], theirs: ColumnElement[bool]) -> list[Ingress]:
        rules: dict[str, list[Rule]] = {}
        query = select(ingress_rules).where(theirs).order_by(_r.ingress, _r.number)
        for row in await self._work.rows(query) if rows else ():
            rules.setdefault(row.ingress, []).append(_rule(row))
        return [_decode(row, rules.get(row.id, [])) for row in rows]


def _columns(rule: Rule) -> dict[str, Any]:
    guard = rule.guard
    return {
        "port": rule.port, "site": rule.site, "hostname": rule.hostname, "instance": rule.instance,
        "pinned": rule.pinned, "target_port": rule.target_port, "tls": rule.tls, "redirect": rule.redirect,
        "guard_header": guard.header if guard else None, "guard_value": guard.value if guard else None,
    }  # fmt: skip


def _rule(row: Any) -> Rule:
    guard = Guard(row.guard_header, row.guard_value) if row.guard_header is not None else None
    pinned = InstanceId(row.pinned) if row.pinned is not None else None
    return Rule(row.hostname, row.instance, row.target_port, row.port, row.tls, row.redirect, guard, pinned)


def _decode(row: Any, rules: Iterable[Rule]) -> Ingress:
    return Ingress(
        IngressId(row.id), ProjectId(row.project), row.name, tuple(rules), codec.moment(row.created),
        _LABELS.decode(row.labels),
    )  # fmt: skip
