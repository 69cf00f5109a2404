"""`vm.terminal`: a shell in a machine, over a WebSocket of raw bytes; without an upgrade, a URL that opens one, once.

What is typed comes as binary or text messages, and a text message with `{"type": "resize", "cols": C, "rows": R}` is
the size of the screen (hanzo.md §2.5). Who may not is refused before the upgrade, as a plain call is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from urllib.parse import urlencode

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from polyvisor.dialects.hanzo import errors, find, wire
from polyvisor.dialects.hanzo.errors import Refusal
from polyvisor.dialects.hanzo.states import RUNNING, word
from polyvisor.dialects.hanzo.table import PREFIX, QUERY, Call, Router, Table, caller
from polyvisor.dialects.kit.credentials import check_origin, source_of
from polyvisor.dialects.kit.inbox import Inbox
from polyvisor.engine import Engine
from polyvisor.engine.terminals import MOST_SIDE, Process
from polyvisor.model.faults import Fault, Internal, Unauthenticated, WrongState
from polyvisor.model.guest import Output
from polyvisor.model.ids import InstanceId
from polyvisor.model.principal import Action, Credential, Principal

routes = Router()
log = logging.getLogger("polyvisor.hanzo")
_NAME = "vm.terminal"
_NORMAL, _REFUSED, _FAILED = 1000, 1003, 1011
_REASON = 120  # bytes that a close may say


@routes.add(_NAME, QUERY, wire.ThisVm)
async def address(call: Call) -> object:
    """Where a terminal is to be had, once and within a minute; and the page that makes use of it."""
    instance = await find.vm(call, call.body.vmId, Action.INSTANCE_INTERACT)
    _require_running(word(instance, call.core.clock()))
    ticket = await call.core.terminals.ticket(call.principal, instance.id)
    here = call.request.url
    scheme = "wss" if here.scheme == "https" else "ws"
    id = find.VM + instance.id
    query = urlencode({"vmId": id, "token": ticket.text})
    return {
        "url": f"{scheme}://{here.netloc}{PREFIX}{_NAME}?{query}",
        "page": f"{here.scheme}://{here.netloc}{PREFIX}{_NAME}.html?{urlencode({'vmId': id})}",
        "expiresIn": int(ticket.life),
    }


def _require_running(status: str) -> None:
    if status != RUNNING:
        raise WrongState(f"VM must be running to connect to terminal: it is {status}")


async def connect(table: Table, core: Engine, scope: Scope, receive: Receive, send: Send) -> None:
    """The WebSocket, from its first request to its end."""
    connection = HTTPConnection(scope)
    standing = table.count(connection, writes=False)
    path = scope["path"].removeprefix(PREFIX)
    try:
        if path != _NAME:
            raise Refusal("NOT_FOUND", f'No procedure found on path "{path}"')
        table.mind(standing)
        process = await _opened(connection, core)
    except Fault as fault:
        await _refuse(errors.of_fault(path, fault), standing.headers, scope, receive, send)
        return
    except Refusal as refusal:
        answer = errors.reply(path, refusal.code, refusal.message, refusal.headers)
        await _refuse(answer, standing.headers, scope, receive, send)
        return
    except Exception:  # told as what it is, with the details in the log only
        log.exception("%s", path)
        await _refuse(errors.of_fault(path, Internal()), standing.headers, scope, receive, send)
        return
    try:
        socket = WebSocket(scope, receive, send)
        await socket.accept(headers=[(name.lower().encode(), said.encode()) for name, said in standing.headers.items()])
        await _converse(socket, process)
    finally:
        await process.close()


async def _refuse(answer: Response, headers: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
    answer.headers.update(headers)
    await answer(scope, receive, send)


async def _opened(connection: HTTPConnection, core: Engine) -> Process:
    """:raise Fault: who calls may not, or there is nothing to be had."""
    check_origin(connection)
    id = connection.query_params.get("vmId")
    if id is None:
        raise Refusal("BAD_REQUEST", "vmId: is required")
    principal = await _principal(connection, core, InstanceId(id.removeprefix(find.VM)))
    instance = await find.vm_for(core, principal, id, Action.INSTANCE_INTERACT)
    _require_running(word(instance, core.clock()))
    cols, rows = _size(dict(connection.query_params)) or (80, 24)
    return await core.terminals.open(principal, instance.id, cols, rows)


async def _principal(connection: HTTPConnection, core: Engine, id: InstanceId) -> Principal:
    """By the header; or by the query, since a browser sends no header: a ticket, or a token."""
    if "authorization" in connection.headers:
        return await caller(connection, core)
    token = connection.query_params.get("token", "")
    if not token:
        raise Unauthenticated("a token is needed: by the Authorization header or as token in the query")
    with contextlib.suppress(Unauthenticated):
        return core.terminals.redeem(token, id)
    return await core.authenticate(Credential(key=token, source=source_of(connection)))


# -- the conversation ----------------------------------------------------------------------------------------------


async def _converse(socket: WebSocket, process: Process) -> None:
    """Until the shell has ended, or the client has left or said what cannot be."""
    code, reason = _NORMAL, ""
    async with Inbox(socket) as inbox:
        tell, feed = asyncio.create_task(_tell(socket, process)), asyncio.create_task(_feed(inbox, process))
        try:
            done, _ = await asyncio.wait({tell, feed}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except WebSocketDisconnect:
            return
        except Refusal as refusal:
            code, reason = _REFUSED, refusal.message
        except Fault as fault:
            code, reason = _FAILED, fault.public
        except Exception:  # told as what it is, with the details in the log only
            log.exception("%s", _NAME)
            code, reason = _FAILED, Internal().public
        finally:
            tell.cancel()
            feed.cancel()
            await asyncio.gather(tell, feed, return_exceptions=True)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await socket.close(code, reason.encode()[:_REASON].decode(errors="ignore"))


async def _tell(socket: WebSocket, process: Process) -> None:
    while isinstance(said := await process.read(), Output):
        await socket.send_bytes(said.data)


async def _feed(inbox: Inbox, process: Process) -> None:
    while True:
        message = await inbox.get()
        data, text = message.get("bytes"), message.get("text")
        if data is None and text is not None and (order := _order(text)) is not None:
            await process.resize(*order)
        else:
            await process.write(data if data is not None else (text or "").encode(errors="replace"))


def _order(text: str) -> tuple[int, int] | None:
    """The size that a text message asks for; None: it was typed. :raise Refusal: there is no such size."""
    if not text.startswith("{"):
        return None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("type") != "resize":
        return None
    if (size := _size(said)) is None:
        raise Refusal("BAD_REQUEST", f"resize: cols and rows must be 1 to {MOST_SIDE}")
    return size


def _size(said: dict[str, object]) -> tuple[int, int] | None:
    """:raise nothing: what is no size is None."""
    try:
        cols, rows = int(str(said.get("cols", ""))), int(str(said.get("rows", "")))
    except ValueError:
        return None
    return (cols, rows) if 1 <= cols <= MOST_SIDE and 1 <= rows <= MOST_SIDE else None
