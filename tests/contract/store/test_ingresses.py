"""Ingresses and their rules in a store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from contract.store.things import NOBODY, NOW, P, Q, an_instance, projects
from polyvisor.model.faults import Exists, NotFound
from polyvisor.model.ids import IngressId, mint
from polyvisor.model.ingress import Guard, Ingress, Rule
from polyvisor.store import SqlStore

GUARD = Guard("X-Door", "v" * 32)


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


def an_ingress(*hosts: str, after: int = 0, **given: object) -> Ingress:
    """One whose rules are for those hosts."""
    id = IngressId(mint())
    rules = tuple(Rule(host, "web", 8000) for host in hosts)
    made = Ingress(id, P, id, rules, NOW + timedelta(microseconds=after), (("a", "b"),))
    return replace(made, **given)  # type: ignore[arg-type]  # of its fields


async def test_an_ingress_is_what_was_put_there(store: SqlStore) -> None:
    instance = an_instance("web")
    rules = (
        Rule("{instance}.Example.com", "{instance}", 80, 443, tls=True, redirect=True, guard=GUARD),
        Rule("a.example.com", "web", 8000, pinned=instance.id),
    )
    one, two = an_ingress(rules=rules, name="one"), an_ingress("b.example.com", after=1)
    async with store.write() as unit:
        await unit.instances.add(instance)
        await unit.ingresses.add(one)
        await unit.ingresses.add(two)
    async with store.read() as unit:
        assert await unit.ingresses.get(one.id) == one
        assert await unit.ingresses.named(P, "one") == one
        assert await unit.ingresses.all() == [one, two]
        first = await unit.ingresses.page([P], None, 1)
        assert first.items == (one,)
        assert (await unit.ingresses.page([P], first.next, 5)).items == (two,)
        assert (await unit.ingresses.page([Q], None, 5)).items == ()
        with pytest.raises(NotFound):
            await unit.ingresses.named(Q, "one")


async def test_a_rule_outlives_its_instance(store: SqlStore) -> None:
    instance = an_instance("web")
    one = an_ingress(rules=(Rule("a.example.com", "web", 8000, pinned=instance.id),))
    async with store.write() as unit:
        await unit.instances.add(instance)
        await unit.ingresses.add(one)
    async with store.write() as unit:
        await unit.instances.forget(instance.id)
        assert (await unit.ingresses.get(one.id)).rules == (Rule("a.example.com", "web", 8000),)


async def test_names_are_a_projects_and_sites_are_everybodys(store: SqlStore) -> None:
    one = an_ingress("A.example.com", name="one")
    async with store.write() as unit:
        await unit.ingresses.add(one)
        await unit.ingresses.add(an_ingress("b.example.com", name="one", project=Q))
        with pytest.raises(Exists) as told:
            await unit.ingresses.add(an_ingress("c.example.com", name="one"))
        assert told.value.field == "name"
        with pytest.raises(Exists) as told:
            await unit.ingresses.add(an_ingress("c.example.com", "a.example.com", project=Q))
        assert told.value.field == "site"
        with pytest.raises(NotFound):
            await unit.ingresses.add(an_ingress(rules=(Rule("d.example.com", "web", 80, pinned=NOBODY),)))
    async with store.write() as unit:
        assert len(await unit.ingresses.all()) == 2  # of those refused no part is left
        await unit.ingresses.add(an_ingress("c.example.com"))
        await unit.ingresses.forget(one.id)
        await unit.ingresses.add(an_ingress("a.example.com"))
        with pytest.raises(NotFound):
            await unit.ingresses.forget(one.id)
