"""exec and cp before they are WebSockets: who may not, or names nothing, is refused with a status (hypeman.md §1.5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from polyvisor.dialects.hypeman import errors, resolve
from polyvisor.dialects.hypeman.auth import Caller, Refused, caller_of
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.states import word
from polyvisor.dialects.hypeman.table import Call
from polyvisor.engine import Engine
from polyvisor.model.faults import Fault
from polyvisor.model.instance import Instance

SCOPE = "instance:write"


@dataclass(frozen=True, slots=True)
class Talk:
    """An accepted socket about an instance that runs."""

    socket: WebSocket
    core: Engine
    caller: Caller
    instance: Instance


Handler = Callable[[Talk], Awaitable[None]]


class SocketEndpoint:
    """One WebSocket route, as an ASGI application. By plain HTTP it says the same of who may and what there is."""

    def __init__(self, engine: Engine, handler: Handler) -> None:
        self._engine = engine
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        is_socket = scope["type"] == "websocket"
        if not is_socket and scope["method"] != "GET":
            await errors.wrong_method(["GET"])(scope, receive, send)
            return
        found = await self._admit(connection)
        if isinstance(found, Response) or not is_socket:
            refused = found if isinstance(found, Response) else errors.before_upgrade(_no_socket())
            await refused(scope, receive, send)
            return
        caller, instance = found
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await self._handler(Talk(socket, self._engine, caller, instance))

    async def _admit(self, connection: HTTPConnection) -> Response | tuple[Caller, Instance]:
        try:
            caller = await caller_of(connection, self._engine)
        except Refused as refused:
            return errors.by_validator(401, str(refused))
        if not caller.may(SCOPE):
            return errors.by_scopes(SCOPE)
        try:
            call = Call(connection, self._engine, caller)  # type: ignore[arg-type]  # only its path is looked at
            instance = await resolve.instance(call)
        except Refusal as refusal:
            return errors.by_resolver(refusal)
        except Fault as fault:
            return errors.by_resolver(errors.of_fault(fault))
        if (state := word(instance)) != "Running":
            return errors.before_upgrade(not_running(state))
        return caller, instance


def not_running(state: str) -> Refusal:
    """What cannot be asked of a guest that is not up."""
    return Refusal(409, "invalid_state", f"instance must be running (current state: {state})")


def _no_socket() -> Refusal:
    return Refusal(400, "bad_request", "the request is not one for a WebSocket: it has no Upgrade header")


def socket_routes(path: str, engine: Engine, handler: Handler) -> list[BaseRoute]:
    """A WebSocket route whose refusals are plain answers, and the same path for who asks by plain HTTP."""
    endpoint = SocketEndpoint(engine, handler)
    return [WebSocketRoute(path, endpoint), Route(path, endpoint)]
