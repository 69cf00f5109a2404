"""What nobody asked for in a request: a task's action when its time has come, and chores."""

from __future__ import annotations

import json

from starlette.requests import Request

from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.resource import Call, Jobs, Locks
from polyvisor.dialects.vergeos.samples import Samples
from polyvisor.dialects.vergeos.tables import actions
from polyvisor.dialects.vergeos.tables.tasks import WORDS
from polyvisor.dialects.vergeos.world import World
from polyvisor.engine import Engine
from polyvisor.model.faults import NotFound, WrongState
from polyvisor.model.ids import OperationId
from polyvisor.model.principal import Principal
from polyvisor.model.task import Task

_NOWHERE = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}


class Unasked:
    """One for an application, whose locks and jobs these are."""

    def __init__(self, engine: Engine, locks: Locks, jobs: Jobs, samples: Samples) -> None:
        self._engine, self._locks, self._jobs, self._samples = engine, locks, jobs, samples

    def call(self, principal: Principal) -> Call:
        """As if somebody had asked."""
        world = World(self._engine, principal, int(self._engine.clock().timestamp()), self._samples)
        return Call(Request(_NOWHERE), self._engine, principal, world, self._locks, self._jobs)

    async def perform(self, principal: Principal, task: Task) -> OperationId | None:
        """What a task says, as `vm_actions` does it (vergeos.md §2.2, §2.15).

        :raise Fault: the VM is not there, or not in a state for it.
        """
        call = self.call(principal)
        async with self._locks.of(task.instance):
            for vm in await call.world.live():
                if vm.row.name == task.instance:
                    params = json.loads(task.settings)
                    try:
                        await actions.ACTIONS[WORDS[task.deed]](call, vm, params if isinstance(params, dict) else {})
                    except Refusal as refusal:
                        raise WrongState(refusal.text) from refusal
                    return (await self._engine.instances.get(principal, task.instance)).operation
        raise NotFound("the VM is not there any more", subject=task.instance)
