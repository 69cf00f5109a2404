"""Code and files in a session's VM (instavm.md §1.6, §1.7), at paths of their own."""

from __future__ import annotations

import asyncio
import base64
import posixpath
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile

from polyvisor.dialects.instavm import executions, records, staged, vms
from polyvisor.dialects.instavm.door import Call, Caller, let_in
from polyvisor.dialects.instavm.vms import Vm
from polyvisor.dialects.instavm.wire import ExecuteRequest, ExecuteResponse
from polyvisor.model.code import Language
from polyvisor.model.faults import Invalid, NotFound, TimedOut
from polyvisor.model.principal import Action

router = APIRouter()
_CHUNK = 1 << 20
_HOME = "/app"
_LARGEST = 256 * 1024 * 1024  # bytes of a download, which is one JSON text


async def _run(call: Call, body: ExecuteRequest, session_id: str) -> ExecuteResponse:
    """What the code says. Where the caller gave a time limit, the coming up of the VM is a part of it; who gave none
    waits as long as for any other call, and the limit is the code's."""
    code = body.command if body.command is not None else body.code
    assert code is not None  # it was checked
    limit = _within(body.timeout)
    patience = limit if "timeout" in body.model_fields_set else vms.PATIENCE - limit
    began = asyncio.get_running_loop().time()
    session = await records.find_session(call, session_id, Action.INSTANCE_INTERACT)
    try:
        async with asyncio.timeout(patience):
            vm = await asyncio.shield(asyncio.ensure_future(vms.ready(call, session)))
    except TimeoutError as error:
        raise TimedOut("the VM is still coming up; try again") from error
    if "timeout" in body.model_fields_set:
        limit = max(1.0, limit - (asyncio.get_running_loop().time() - began))
    async with call.core.bindings.lend(call.principal, vm.instance.id, body.vault_ids or ()):
        ran = await call.core.code.run(
            call.principal, vm.instance.id, code, Language(body.language), timeout=limit, env=await staged.of(call, vm)
        )
    return ExecuteResponse(
        stdout=ran.stdout, stderr=ran.stderr, execution_time=ran.execution_time, cpu_time=ran.cpu_time,
        exit_code=ran.exit_code,
    )  # fmt: skip


def _within(timeout: int) -> float:
    """Seconds: the client hangs up after `timeout`, and is to hear what became of it."""
    return max(0.7 * timeout, timeout - 1.5)


def _check(body: ExecuteRequest) -> None:
    """:raise Invalid:"""
    if body.command is None and body.code is None:
        raise Invalid("command: Field required", field="command")


@router.post("/execute")
async def execute(request: Request, body: ExecuteRequest) -> ExecuteResponse:
    """Run it, and answer when it has ended. What goes wrong in it is told by the answer: that is 200."""
    call = await let_in(request, body.api_key)
    _check(body)
    return await _run(call, body, body.session_id)


@router.post("/execute_async")
async def execute_async(request: Request, body: ExecuteRequest) -> dict[str, str]:
    """Run it, and answer at once."""
    call = await let_in(request, body.api_key)
    _check(body)
    session = await records.find_session(call, body.session_id, Action.INSTANCE_INTERACT)
    tasks: executions.Executions = request.app.state.executions
    return {"task_id": tasks.begin(call.principal, session.id, _run(call, body, session.id)), "status": "pending"}


@router.get("/v1/executions/{task_id}")
async def execution(call: Caller, request: Request, task_id: str) -> dict[str, Any]:
    """How it is with that."""
    tasks: executions.Executions = request.app.state.executions
    return executions.told(tasks.find(call.principal, task_id))


@router.get("/v1/executions/")
async def all_executions(call: Caller, request: Request) -> list[dict[str, Any]]:
    """The caller's latest, newest first."""
    tasks: executions.Executions = request.app.state.executions
    return [executions.told(one) for one in tasks.of(call.principal)]


# -- files -------------------------------------------------------------------------------------------------------------


async def _vm(call: Call, session_id: str) -> Vm:
    return await vms.ready(call, await records.find_session(call, session_id, Action.INSTANCE_INTERACT))


def _absolute(path: str, field: str) -> str:
    """:raise Invalid:"""
    if not path or "\0" in path:
        raise Invalid(f"{field}: must be a path", field=field)
    return posixpath.join(_HOME, path)


@router.post("/upload")
async def upload(
    request: Request,
    file: Annotated[UploadFile, File()],
    remote_path: Annotated[str, Form()],
    session_id: Annotated[str, Form()],
    recursive: Annotated[bool, Form()] = False,
    api_key: Annotated[str | None, Form()] = None,
) -> dict[str, Any]:
    """A file into the VM, whole or not at all; into a directory under its own name. `recursive`: it is a tar archive,
    which is unpacked there."""
    call = await let_in(request, api_key)
    path = _absolute(remote_path, "remote_path")
    vm = await _vm(call, session_id)
    guest = await call.core.streams.guest(call.principal, vm.instance.id)
    size = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal size
        while data := await file.read(_CHUNK):
            size += len(data)
            yield data

    if recursive:
        try:
            await guest.tar_in(path, chunks())
        except Invalid as fault:
            raise Invalid(f"file: {fault.public.removeprefix('body: ')}", field="file") from fault
    else:
        there = await guest.stat(path, follow=True)
        if remote_path.endswith("/") or there.kind == "directory":
            path = posixpath.join(path, posixpath.basename((file.filename or "").replace("\\", "/")) or "upload")
        await guest.write_file(path, chunks(), mode=0o644)
    return {"status": "success", "remote_path": path, "size": size, "session_id": session_id}


@router.post("/download")
async def download(
    call: Caller, filename: Annotated[str, Form()], session_id: Annotated[str, Form()]
) -> dict[str, Any]:
    """A file of the VM. An empty one is a line feed, which clients decode to nothing."""
    path = _absolute(filename, "filename")
    vm = await _vm(call, session_id)
    guest = await call.core.streams.guest(call.principal, vm.instance.id)
    there = await guest.stat(path, follow=True)
    if not there.exists:
        raise NotFound(f"File not found: {filename[:200]}")
    if there.kind != "file":
        raise Invalid(f"filename: {filename[:200]} is a {there.kind}", field="filename")
    data = bytearray()
    async for chunk in guest.read_file(path):
        data += chunk
        if len(data) > _LARGEST:
            raise Invalid(f"filename: larger than {_LARGEST} bytes; use scp", field="filename")
    content = (await asyncio.to_thread(base64.b64encode, data)).decode() or "\n"
    return {"content": content, "filename": filename, "size": len(data), "encoding": "base64"}
