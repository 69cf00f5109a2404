"""Terminals of VMs, by VM and by session: the same routes twice (instavm.md §1.14)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, WebSocket
from starlette.websockets import WebSocketDisconnect

from polyvisor.dialects.instavm import ptys, records, staged, vms
from polyvisor.dialects.instavm.door import Call, Caller, let_in
from polyvisor.dialects.instavm.ptys import Pty, Ptys
from polyvisor.dialects.instavm.vms import Vm
from polyvisor.dialects.instavm.wire import PtyRequest, PtySize
from polyvisor.dialects.kit.inbox import Inbox
from polyvisor.dialects.kit.texts import clean
from polyvisor.model.faults import Fault, Throttled, Unauthenticated
from polyvisor.model.guest import Exec
from polyvisor.model.principal import Action

Find = Callable[[Call, str], Awaitable[Vm]]
UNAUTHENTICATED, FAILED = 4401, 4500
_REASON = 123  # bytes
_SHELL = "if [ -x /bin/bash ]; then exec /bin/bash {}; else exec /bin/sh {}; fi"
_LOGIN = _SHELL.format("-il", "-il")
_LINE = _SHELL.format('-lc "$1"', '-lc "$1"')


async def _by_vm(call: Call, key: str) -> Vm:
    return await vms.find(call, key, Action.INSTANCE_INTERACT)


async def _by_session(call: Call, key: str) -> Vm:
    return await vms.ready(call, await records.find_session(call, key, Action.INSTANCE_INTERACT))


def _all(request: Request) -> Ptys:
    found: Ptys = request.app.state.ptys
    return found


Terminals = Annotated[Ptys, Depends(_all)]


def argv_of(body: PtyRequest) -> tuple[str, ...]:
    """What runs in it: a line for the shell, a program as it is asked for, or a login shell."""
    if body.command is not None:
        return ("/bin/sh", "-c", _LINE, "sh", body.command)
    if body.shell is not None:
        return (body.shell, "-il") if body.shell.rsplit("/", 1)[-1] in ("bash", "zsh", "sh", "ash") else (body.shell,)
    return ("/bin/sh", "-c", _LOGIN)


async def _begin(call: Call, all: Ptys, vm: Vm, body: PtyRequest) -> dict[str, Any]:
    vm = await vms.awake(call, vm)
    env = {"TERM": "xterm-256color", **await staged.of(call, vm)}
    async with vms.one_at_a_time(f"terminals of {vm.instance.id}"):  # an id is one terminal's
        id = all.admit(vm.instance.id, body.id)
        ask = Exec(argv_of(body), env, tty=True, cols=body.cols, rows=body.rows)
        process = await call.core.streams.execute(call.principal, vm.instance.id, ask)
        pty = ptys.new(id, vm.instance.id, process, (body.cols, body.rows))
        all.add(pty)
    return {**ptys.told(pty), "vm_id": vm.id}


def routes(prefix: str, find: Find) -> APIRouter:
    """Those below a VM or a session."""
    router = APIRouter(prefix=prefix)

    @router.post("/{key}/pty/sessions")
    async def begin(call: Caller, all: Terminals, key: str, body: PtyRequest) -> dict[str, Any]:
        return await _begin(call, all, await find(call, key), body)

    @router.get("/{key}/pty/sessions")
    async def list_all(call: Caller, all: Terminals, key: str) -> dict[str, Any]:
        vm = await find(call, key)
        return {"sessions": [ptys.told(one) for one in all.of(vm.instance.id)]}

    @router.get("/{key}/pty/sessions/{pty}")
    async def get(call: Caller, all: Terminals, key: str, pty: str) -> dict[str, Any]:
        return ptys.told(all.find((await find(call, key)).instance.id, pty))

    @router.post("/{key}/pty/sessions/{pty}/resize")
    async def resize(call: Caller, all: Terminals, key: str, pty: str, body: PtySize) -> dict[str, Any]:
        found = all.find((await find(call, key)).instance.id, pty)
        await _resize(found, body.cols, body.rows)
        return ptys.told(found)

    @router.delete("/{key}/pty/sessions/{pty}")
    async def end(call: Caller, all: Terminals, key: str, pty: str) -> dict[str, Any]:
        found = all.find((await find(call, key)).instance.id, pty)
        await all.end(found)
        return {"status": "killed", "session_id": found.id}

    @router.websocket("/{key}/pty/{pty}/connect")
    async def connect(socket: WebSocket, key: str, pty: str) -> None:
        await _connect(socket, find, key, pty)

    return router


async def _connect(socket: WebSocket, find: Find, key: str, id: str) -> None:
    """Bytes both ways; refusals come as codes of a close, since that is where the client looks for them."""
    await socket.accept()
    try:
        call = await let_in(socket, socket.query_params.get("api_key"))
        pty = socket.app.state.ptys.find((await find(call, key)).instance.id, id)
    except (Unauthenticated, Throttled) as fault:
        await socket.close(UNAUTHENTICATED, _short(fault.public))
        return
    except Fault as fault:
        await socket.close(FAILED, _short(fault.public))
        return
    try:
        async with Inbox(socket) as inbox:
            await _converse(socket, inbox, pty)
    except (WebSocketDisconnect, RuntimeError):  # it is there for the next one
        return


def _short(text: str) -> str:
    """As much of it as a close has room for, which is in bytes."""
    return clean(text).encode()[:_REASON].decode(errors="ignore")


async def _converse(socket: WebSocket, inbox: Inbox, pty: Pty) -> None:
    hearing = asyncio.create_task(_hear(inbox, pty))
    try:
        while (data := await _next(pty, hearing)) is not None:
            await socket.send_bytes(data)
        if not pty.alive:
            await socket.send_text(json.dumps({"type": "exit", "exit_code": pty.exit_code}))
            await socket.close(1000)
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


async def _next(pty: Pty, hearing: asyncio.Task[None]) -> bytes | None:
    """What it said, or None once it has ended, or whoever listened has left."""
    said = asyncio.create_task(pty.next())
    try:
        await asyncio.wait({said, hearing}, return_when=asyncio.FIRST_COMPLETED)
        return said.result() if said.done() else None
    finally:
        said.cancel()


async def _hear(inbox: Inbox, pty: Pty) -> None:
    while True:
        message = await inbox.get()
        data = message.get("bytes")
        if data is not None:
            await pty.process.write(data)
            continue
        order = _order(message.get("text") or "")
        if order is not None:
            await _resize(pty, order.cols, order.rows)


def _order(text: str) -> PtySize | None:
    """The only order there is; what is none is left alone, as upstream does."""
    try:
        said = json.loads(text)
        return PtySize.model_validate(said) if said.get("type") == "resize" else None
    except (ValueError, AttributeError, RecursionError):
        return None


async def _resize(pty: Pty, cols: int, rows: int) -> None:
    pty.cols, pty.rows = cols, rows
    await pty.process.resize(cols, rows)


by_vm, by_session = routes("/v1/vms", _by_vm), routes("/v1/sessions", _by_session)
