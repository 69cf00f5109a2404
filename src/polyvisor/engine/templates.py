"""Templates: a machine that was booted once, with nothing of its own to do, from whose memory instances are made.

A create that asks for the same image and size as a template is a copy of it, with the identity and the workload of the
new instance. Nothing of anybody's is in a template: it is booted without a command, variables, keys or ports.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace

from polyvisor.access.grants import permit, require, require_somewhere
from polyvisor.engine.code import CodeEngine
from polyvisor.engine.instances import InstancesEngine, Until
from polyvisor.engine.origins import find_template, may_use
from polyvisor.engine.pool import PoolEngine
from polyvisor.engine.power import PowerEngine
from polyvisor.engine.snapshots import SnapshotsEngine
from polyvisor.engine.streams import StreamsEngine
from polyvisor.model.faults import Exists, Fault, Forbidden, NotFound, Unsupported
from polyvisor.model.instance import Instance
from polyvisor.model.principal import SYSTEM, Action, Principal
from polyvisor.model.request import Create
from polyvisor.model.snapshot import Snapshot, SnapshotKind, TemplateFor
from polyvisor.model.spec import Shape
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
_LIMIT = 300.0
_REST = 2.0  # what a guest does after it is up, such as loading its last modules, is done once and not by each copy
_EXERCISES = 3  # commands run before the memory is kept, so that what a command needs is in it


class TemplatesEngine:
    """Templates are snapshots of bare instances, listed apart. One is made at a time."""

    def __init__(  # noqa: PLR0913 - the nouns that a template is made with
        self,
        store: Store,
        instances: InstancesEngine,
        power: PowerEngine,
        snapshots: SnapshotsEngine,
        streams: StreamsEngine,
        code: CodeEngine,
        pool: PoolEngine,
    ) -> None:
        self._store = store
        self._pool = pool
        self._instances = instances
        self._power = power
        self._snapshots = snapshots
        self._streams = streams
        self._code = code
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[Snapshot]] = set()

    async def create(
        self, principal: Principal, wanted: Create, *, shared: bool = False, code: bool = False
    ) -> Snapshot:
        """A template for creates that ask for this image and size. It is made to its end if the caller leaves.

        `shared`: for every project, by the operator only. `code`: with a Python session that is up, where the image has
        Python, so that the first code that is run in a copy finds it there.
        :raise Forbidden: :raise Exists: there is one. :raise Unsupported: the image boots a disk. :raise Fault:
        """
        require(principal, Action.SNAPSHOT_CREATE)
        if shared and not principal.operator:
            raise Forbidden("only an operator makes a template for every project")
        task = asyncio.create_task(self._create(principal, wanted, shared, code), name=f"template of {wanted.image}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _create(self, principal: Principal, wanted: Create, shared: bool, code: bool) -> Snapshot:
        kind = TemplateFor.ALL if shared else TemplateFor.PROJECT
        async with self._turn:
            spec = await self._instances.resolve(principal, replace(wanted, cold=True))
            if spec.shape is not Shape.MICRO:
                raise Unsupported("image: only root file systems have templates", field="image")
            async with self._store.read() as unit:
                there = await find_template(unit, principal, spec)
            if there is not None:
                raise Exists("image: there is a template for it in that size", field="image", subject=there.id)
            bare = await self._boot(principal, wanted)
            try:
                if code:
                    await self._code.warm_up(SYSTEM, bare.id)
                name = f"{bare.name}-{kind}"
                taken = await self._snapshots.create(principal, bare.id, name, SnapshotKind.FULL, template=kind)
                return await self._snapshots.settle(taken, Until.LAUNCHED, _LIMIT)
            finally:
                await self._instances.settle(await self._power.delete(SYSTEM, bare.id), Until.LAUNCHED, _LIMIT)

    async def _boot(self, principal: Principal, wanted: Create) -> Instance:
        """A machine of that image and size, up and idle."""
        name = f"template-{secrets.token_hex(6)}"
        only = Create(
            image=wanted.image, name=name, vcpus=wanted.vcpus, memory=wanted.memory, disk=wanted.disk, cold=True
        )
        asked = await self._instances.create(principal, only, bare=True)
        bare = await self._instances.settle(asked, Until.READY, _LIMIT)
        await asyncio.sleep(_REST)
        await self._streams.exercise(principal, bare.id, _EXERCISES)
        return bare

    async def list(self, principal: Principal) -> Sequence[Snapshot]:
        """Those that the caller's creates may be made of, oldest first."""
        require_somewhere(principal, Action.SNAPSHOT_VIEW)
        async with self._store.read() as unit:
            return [s for s in await unit.snapshots.templates() if _may_see(principal, s)]

    async def delete(self, principal: Principal, key: str) -> None:
        """Instances that were made from it stay, copies that wait for somebody go first. :raise NotFound, Busy:"""
        async with self._store.read() as unit:
            found = [s for s in await unit.snapshots.templates() if key in (s.id, s.name)]
        for template in found:
            try:
                permit(principal, Action.SNAPSHOT_DELETE, template.project, key)
            except NotFound:
                continue
            async with self._pool.retired(template.id):
                await self._snapshots.delete(principal, template.id)
            return
        raise NotFound(f"no template {key[:80]!r}", field="template", subject=key)

    async def recover(self) -> None:
        """After a crash: what was booted for a template that was not made is removed."""
        async with self._store.read() as unit:
            left = [i for i in await unit.instances.all() if i.spec.bare and not i.spare and not i.intent.deleted]
        for instance in left:
            try:
                await self._power.delete(SYSTEM, instance.id)
            except Fault as fault:
                log.warning("%s: left from a template: %s", instance.id, fault.public)


def _may_see(principal: Principal, template: Snapshot) -> bool:
    """Whether it is told of: those for all to everybody, a project's to whoever may see its snapshots."""
    if template.template is TemplateFor.ALL:
        return True
    mine = principal.operator or may_use(principal, template)
    return mine and principal.may(Action.SNAPSHOT_VIEW, template.project)
