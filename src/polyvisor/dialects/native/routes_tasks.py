"""Tasks, over HTTP: what is done to an instance when its time has come."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from polyvisor.dialects.native.auth import Caller, Core
from polyvisor.dialects.native.params import Key
from polyvisor.dialects.native.translate_tasks import task_to, timetables_of
from polyvisor.model.task import Deed
from polyvisor.wire import native as wire

router = APIRouter(tags=["tasks"])


@router.post("/tasks", status_code=201)
async def create_task(body: wire.CreateTask, caller: Caller, core: Core) -> wire.Task:
    """Something that is done to an instance at a moment, or again and again. It is done in the name of who made it,
    with what he may do then. Without any time it is done only when it is run."""
    when = timetables_of(body, core.clock())
    return task_to(
        await core.tasks.create(
            caller, body.instance, body.name or "", Deed(body.action), when, enabled=body.enabled, once=body.once,
            description=body.description,
        )
    )  # fmt: skip


@router.get("/tasks")
async def list_tasks(caller: Caller, core: Core) -> wire.TaskList:
    """The tasks of every instance that the caller sees, oldest first."""
    return wire.TaskList(items=[task_to(one) for one in await core.tasks.list(caller)])


@router.get("/tasks/{key}")
async def get_task(key: Key, caller: Caller, core: Core) -> wire.Task:
    """One task, by id or name: when it runs next, and what became of its last run."""
    return task_to(await core.tasks.get(caller, key))


@router.patch("/tasks/{key}")
async def update_task(key: Key, body: wire.UpdateTask, caller: Caller, core: Core) -> wire.Task:
    """Enable or disable a task. Who changes it is its owner from then on."""
    return task_to(await core.tasks.update(caller, key, enabled=body.enabled, description=body.description))


@router.post("/tasks/{key}/run")
async def run_task(key: Key, caller: Caller, core: Core) -> wire.Task:
    """Do it now, in the caller's name. Its times stay as they are."""
    return task_to(await core.tasks.run(caller, key))


@router.delete("/tasks/{key}", status_code=204)
async def delete_task(key: Key, caller: Caller, core: Core) -> Response:
    """It is not done any more."""
    await core.tasks.remove(caller, key)
    return Response(status_code=204)
