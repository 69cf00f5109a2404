"""Ingresses: made, told of, removed; and who is meant by a request that comes in by one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime

from polyvisor.access.grants import permit, require, require_somewhere, scope
from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.standby import StandbyEngine
from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.event import Event
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, Exists, Fault, Forbidden, Invalid, NotFound, OverQuota, Unavailable
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import IngressId, ProjectId, check_name, is_id, mint
from polyvisor.model.ingress import HTTP_PORT, Ingress, Rule, TlsPolicy, check_rules, overlap, routes_of
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.model.query import Page
from polyvisor.model.spec import check_labels
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit

log = logging.getLogger("polyvisor.engine")
MOST_OF_PROJECT = 1000  # rules; each is a door


class IngressEngine:
    """One change at a time: what the proxy serves and what is on record are the same before and after each."""

    def __init__(
        self, store: Store, host: Host, clock: Callable[[], datetime], instances: InstancesEngine,
        standby: StandbyEngine, tls: TlsPolicy,
    ) -> None:  # fmt: skip
        self._store = store
        self._host = host
        self._clock = clock
        self._instances = instances
        self._standby = standby
        self._tls = tls
        self._turn = asyncio.Lock()

    async def recover(self) -> None:
        """Serve what is on record. Once, at the server's start, when the machines are known."""
        async with self._turn, self._store.read() as unit:
            found = await unit.ingresses.all()
        await self._host.proxy.start(self.lead, routes_of(found))

    # -- verbs ---------------------------------------------------------------------------------------------------

    async def create(
        self, principal: Principal, name: str, rules: Sequence[Rule], labels: Sequence[tuple[str, str]] = ()
    ) -> Ingress:
        """An ingress, which is served when this returns. `Rule.instance` is an id or a name of the caller's project.

        What is wrong with a rule names it as `rules[N].FIELD`.
        :raise Invalid: also with `rules` as its field: the proxy refuses them. :raise NotFound: there is no such
        instance. :raise Forbidden: no certificate may be had for that name. :raise OverQuota: :raise Unsupported:
        :raise Exists: the name is taken, or `rules[N].hostname` is. :raise Busy: `rules[N].port` is.
        """
        require(principal, Action.INGRESS_CREATE)
        check_name(name)
        check_labels(tuple(labels))
        check_rules(rules)
        self._check_tls(rules)
        async with self._turn:
            async with self._store.read() as unit:
                before = list(await unit.ingresses.all())
                wanted = await self._wanted(unit, principal, name, rules)
            wanted = replace(wanted, labels=tuple(labels))
            _check_against(wanted, before)
            await self._serve(wanted, before)
            await self._write(wanted, before)
        return wanted

    async def replace(
        self, principal: Principal, key: str, rules: Sequence[Rule], proven: Collection[str] = ()
    ) -> Ingress:
        """Other rules for an ingress: all of them from now on, or it is as it was. Faults are as `create` has them.

        `proven` are names that were shown to be its project's: certificates may be had for these, whatever the
        settings say of others.
        """
        require(principal, Action.INGRESS_CREATE)
        check_rules(rules)
        self._check_tls(rules, proven)
        async with self._turn:
            async with self._store.read() as unit:
                before = list(await unit.ingresses.all())
                was = await self._find(unit, principal, key, Action.INGRESS_CREATE)
                pinned = await self._pinned(unit, principal, was.project, rules)
            wanted, others = replace(was, rules=pinned), [one for one in before if one.id != was.id]
            _check_against(wanted, others)
            await self._serve(wanted, others)
            await self._write(wanted, before, was)
        return wanted

    async def _write(self, wanted: Ingress, before: Sequence[Ingress], was: Ingress | None = None) -> None:
        """What is served already is on record, in the place of what `was`; or it is served no more."""
        try:
            async with self._store.write() as unit:
                if was is not None:
                    await unit.ingresses.forget(was.id)
                await unit.ingresses.add(wanted)
                kind = "ingress.created" if was is None else "ingress.updated"
                await unit.events.append(_event(kind, wanted, self._clock()))
        except NotFound as fault:  # an instance has gone meanwhile
            await self._host.proxy.serve(routes_of(before))
            places = [n for n, rule in enumerate(wanted.rules) if rule.pinned is not None]
            where = f"rules[{places[0] if places else 0}].instance"
            raise NotFound(f"{where}: the instance is gone", field=where) from fault
        except BaseException:
            await self._host.proxy.serve(routes_of(before))
            raise

    def _check_tls(self, rules: Sequence[Rule], proven: Collection[str] = ()) -> None:
        for number, rule in enumerate(rules):
            where = f"rules[{number}].tls"
            if rule.tls and rule.site not in proven and not self._tls.allows(rule.site):
                raise Forbidden(f"{where}: no certificate may be had for {rule.site}", field=where)
            if rule.tls and self._tls.public and rule.pattern:
                raise Invalid(f"{where}: the authority of this server gives none for patterns", field=where)

    async def _wanted(self, unit: Unit, principal: Principal, name: str, rules: Sequence[Rule]) -> Ingress:
        pinned = await self._pinned(unit, principal, principal.project, rules)
        return Ingress(IngressId(mint()), principal.project, name, pinned, self._clock())

    async def _pinned(
        self, unit: Unit, principal: Principal, project: ProjectId, rules: Sequence[Rule]
    ) -> tuple[Rule, ...]:
        """The rules with the instances that they name now. :raise NotFound:"""
        pinned = []
        for number, rule in enumerate(rules):
            if rule.pattern:
                pinned.append(rule)
                continue
            where = f"rules[{number}].instance"
            try:
                instance = await self._instances.find(unit, principal, rule.instance, Action.INSTANCE_VIEW)
                if instance.project != project or face(instance) is Face.DELETING:
                    raise NotFound
            except NotFound as fault:
                raise NotFound(f"{where}: there is no instance {rule.instance[:80]!r}", field=where) from fault
            pinned.append(replace(rule, instance=instance.name, pinned=instance.id))
        return tuple(pinned)

    async def _serve(self, wanted: Ingress, before: Sequence[Ingress]) -> None:
        try:
            await self._host.proxy.serve(routes_of([*before, wanted]))
        except (Busy, Forbidden) as fault:  # of a port
            ports = [str(rule.port) for rule in wanted.rules]
            field = f"rules[{ports.index(fault.subject)}].port" if fault.subject in ports else "rules[0].port"
            kind = Busy if isinstance(fault, Busy) else Invalid
            raise kind(f"{field}: {fault.public}", field=field, private=fault.private) from fault

    async def get(self, principal: Principal, key: str) -> Ingress:
        """By id or name. :raise NotFound:"""
        async with self._store.read() as unit:
            return await self._find(unit, principal, key, Action.INGRESS_VIEW)

    async def list(self, principal: Principal, cursor: str | None, limit: int) -> Page[Ingress]:
        """A page, oldest first."""
        require_somewhere(principal, Action.INGRESS_VIEW)
        async with self._store.read() as unit:
            return await unit.ingresses.page(scope(principal, Action.INGRESS_VIEW), cursor, limit)

    async def delete(self, principal: Principal, key: str) -> None:
        """It is served no more: from the moment it is off the record nobody is led anywhere by it, whatever becomes of
        the proxy. :raise NotFound:"""
        async with self._turn:
            async with self._store.write() as unit:
                ingress = await self._find(unit, principal, key, Action.INGRESS_DELETE)
                await unit.ingresses.forget(ingress.id)
                await unit.events.append(_event("ingress.deleted", ingress, self._clock()))
                left = await unit.ingresses.all()
            try:
                await self._host.proxy.serve(routes_of(left))
            except Fault as fault:
                log.warning("the proxy still listens for %s: %s %s", ingress.id, fault.public, fault.private)

    async def _find(self, unit: Unit, principal: Principal, key: str, action: Action) -> Ingress:
        try:
            if not is_id(key):
                raise NotFound
            found = await unit.ingresses.get(IngressId(key))
        except NotFound:
            found = await _named(unit, principal.project, key)
        try:
            permit(principal, action, found.project, key)
        except NotFound as fault:
            raise NotFound(f"no ingress {key[:80]!r}", subject=key) from fault
        return found

    # -- requests ------------------------------------------------------------------------------------------------

    async def lead(self, id: IngressId, number: int, host: str) -> tuple[Blueprint, int]:
        """See `ports.proxy.Switch`. One in standby goes on: an ingress says that it is there for who calls."""
        instance, port = await self._target(id, number, host)
        if face(instance) is not Face.RUNNING:
            try:
                await self._standby.rouse(instance.id)
            except Fault as fault:
                raise Unavailable("the instance is not there to answer", private=fault.public) from fault
            instance, port = await self._target(id, number, host)
        return blueprint_of(instance), port

    async def _target(self, id: IngressId, number: int, host: str) -> tuple[Instance, int]:
        async with self._store.read() as unit:
            try:
                ingress = await unit.ingresses.get(id)
                rule = ingress.rules[number]
            except (NotFound, IndexError) as error:
                raise NotFound("there is no ingress for this host") from error
            instance = await _meant(unit, ingress.project, rule, host)
        if instance is None or face(instance) is Face.DELETING:
            raise NotFound("there is no instance for this host")
        return instance, rule.target_port


async def _named(unit: Unit, project: ProjectId, name: str) -> Ingress:
    try:
        return await unit.ingresses.named(project, name)
    except NotFound as fault:
        raise NotFound(f"no ingress {name[:80]!r}", subject=name) from fault


async def _meant(unit: Unit, project: ProjectId, rule: Rule, host: str) -> Instance | None:
    """The instance of that project that a request is for. One that it was pinned to may have another name by now."""
    name = rule.called(host) if rule.pattern else rule.instance
    try:
        if rule.pinned is not None:
            return await unit.instances.get(rule.pinned)
        return None if name is None else await unit.instances.named(project, name)
    except NotFound:
        return None


def _check_against(wanted: Ingress, before: Sequence[Ingress]) -> None:
    """:raise Exists, Busy, OverQuota: something that it wants is another one's."""
    mine = [one for one in before if one.project == wanted.project]
    if any(one.name == wanted.name for one in mine):
        raise Exists(f"name: there is an ingress {wanted.name!r} already", field="name")
    if sum(len(one.rules) for one in mine) + len(wanted.rules) > MOST_OF_PROJECT:
        raise OverQuota(f"rules: a project has at most {MOST_OF_PROJECT}", field="rules")
    taken = [(rule, one.project) for one in before for rule in one.rules]
    for number, rule in enumerate(wanted.rules):
        for other, project in taken:
            _check_pair(number, rule, other, same=project == wanted.project)
        taken.append((rule, wanted.project))


def _check_pair(number: int, rule: Rule, other: Rule, *, same: bool) -> None:
    for port, tls in _places(rule):
        for its, also in _places(other):
            if port != its:
                continue
            if rule.site == other.site or (not same and overlap(rule.site, other.site)):
                where = f"rules[{number}].hostname"
                raise Exists(f"{where}: {rule.hostname} is in use at port {port}", field=where)
            if tls != also:
                where = f"rules[{number}].port"
                raise Busy(f"{where}: port {port} is in use {'with' if also else 'without'} TLS", field=where)


def _places(rule: Rule) -> list[tuple[int, bool]]:
    """Where it is asked for, and whether with TLS."""
    return [(rule.port, rule.tls), *([(HTTP_PORT, False)] if rule.redirect else [])]


def _event(kind: str, ingress: Ingress, now: datetime) -> Event:
    return Event(kind, ingress.project, ingress.id, now, {"name": ingress.name})
