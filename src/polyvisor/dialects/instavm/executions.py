"""What is executed while nobody waits. A server that ends ends them: their VMs run on, their answers are lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from polyvisor.dialects.instavm.vms import now, stamp
from polyvisor.dialects.instavm.wire import ExecuteResponse
from polyvisor.model.faults import Fault, NotFound, OverQuota
from polyvisor.model.principal import Principal

_KEPT, _HELD = 200, 128 * 1024 * 1024  # of a caller: how many, and characters; the oldest that are over go first
_AT_ONCE, _OF_ONE = 200, 100  # under way: of all callers, and of one


@dataclass(frozen=True, slots=True)
class Execution:
    """One of them, and whose."""

    id: str
    owner: tuple[str, str]
    session: str
    began: datetime
    task: asyncio.Task[ExecuteResponse] = field(repr=False)


class Executions:
    """Those of one application."""

    def __init__(self) -> None:
        self._all: dict[str, Execution] = {}

    def begin(self, principal: Principal, session: str, work: Coroutine[Any, Any, ExecuteResponse]) -> str:
        """Its id. :raise OverQuota: there are too many."""
        mine = _owner(principal)
        under_way = [one.owner for one in self._all.values() if not one.task.done()]
        if len(under_way) >= _AT_ONCE or under_way.count(mine) >= _OF_ONE:
            work.close()
            raise OverQuota("too many executions are under way; try again later")
        id = str(uuid4())
        task = asyncio.create_task(work, name=f"execution {id}")
        self._all[id] = Execution(id, mine, session, now(), task)
        task.add_done_callback(lambda _: self._forget(mine))
        return id

    def _forget(self, owner: tuple[str, str]) -> None:
        """Those of a caller that are over and too many, or have said too much; the latest stays in any case."""
        over = [one for one in reversed(self._all.values()) if one.owner == owner and one.task.done()]
        held = 0
        for place, one in enumerate(over):
            held += _said(one)
            if place >= _KEPT or (place and held > _HELD):
                del self._all[one.id]

    def find(self, principal: Principal, id: str) -> Execution:
        """:raise NotFound: there is none, or it is another's."""
        found = self._all.get(id)
        if found is None or found.owner != _owner(principal):
            raise NotFound(f"Execution {id[:80]} not found")
        return found

    def of(self, principal: Principal) -> list[Execution]:
        """The caller's, newest first."""
        return [one for one in reversed(self._all.values()) if one.owner == _owner(principal)]

    async def close(self) -> None:
        """End what is under way."""
        for one in self._all.values():
            one.task.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.gather(*(one.task for one in self._all.values()), return_exceptions=True)


def _said(one: Execution) -> int:
    if one.task.cancelled() or one.task.exception() is not None:
        return 0
    ran = one.task.result()
    return len(ran.stdout) + len(ran.stderr)


def _owner(principal: Principal) -> tuple[str, str]:
    return principal.project, principal.user or principal.name


def told(one: Execution) -> dict[str, Any]:
    """As `GET /v1/executions/{id}` has it; a refusal is told where an error of the code would be."""
    answer: dict[str, Any] = {
        "task_id": one.id,
        "session_id": one.session,
        "created_at": stamp(one.began),
        "is_complete": one.task.done(),
        "status": "running",
        "serialized_stdout": "",
        "serialized_stderr": "",
        "cpu_time": None,
        "execution_time": None,
        "exit_code": None,
    }
    if not one.task.done():
        return answer
    error = asyncio.CancelledError() if one.task.cancelled() else one.task.exception()
    if error is not None:
        text = error.public if isinstance(error, Fault) else "the execution was ended"
        return answer | {"status": "failed", "serialized_stderr": f"{text}\n", "exit_code": -1}
    ran = one.task.result()
    return answer | {
        "status": "completed" if ran.exit_code == 0 else "failed",
        "serialized_stdout": ran.stdout,
        "serialized_stderr": ran.stderr,
        "cpu_time": ran.cpu_time,
        "execution_time": ran.execution_time,
        "exit_code": ran.exit_code,
    }
