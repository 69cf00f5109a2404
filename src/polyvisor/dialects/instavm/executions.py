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

_KEPT = 1000  # of all callers; the oldest that are over go first
_AT_ONCE = 200


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
        if sum(not one.task.done() for one in self._all.values()) >= _AT_ONCE:
            work.close()
            raise OverQuota("too many executions are under way; try again later")
        id = str(uuid4())
        self._all[id] = Execution(id, mine, session, now(), asyncio.create_task(work, name=f"execution {id}"))
        over = [one.id for one in self._all.values() if one.task.done()]
        for old in over[: max(0, len(self._all) - _KEPT)]:
            del self._all[old]
        return id

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
