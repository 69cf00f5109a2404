"""The application: one order in which every request is answered: path, who asks, table, row, body, what to do."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from polyvisor.dialects.kit.credentials import from_authorization, source_of
from polyvisor.dialects.vergeos import errors, importing, sessions
from polyvisor.dialects.vergeos.chores import Chores
from polyvisor.dialects.vergeos.language import query as asking
from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.language.filters import Condition, Filter
from polyvisor.dialects.vergeos.language.receipts import receipt
from polyvisor.dialects.vergeos.resource import Call, Jobs, Locks, Resource
from polyvisor.dialects.vergeos.samples import Samples
from polyvisor.dialects.vergeos.sources import DIALECT
from polyvisor.dialects.vergeos.tables import CATALOG, RESOURCES
from polyvisor.dialects.vergeos.tables.host import VERSION
from polyvisor.dialects.vergeos.unasked import Unasked
from polyvisor.dialects.vergeos.world import FOREIGN, World
from polyvisor.engine import Engine
from polyvisor.model.faults import Fault, Internal, NotFound
from polyvisor.model.ids import InstanceId
from polyvisor.model.principal import SYSTEM, Principal

log = logging.getLogger("polyvisor.vergeos")
_BODY_LIMIT = 4 * 1024 * 1024
_PATH = re.compile(r"/api/v4/([a-z0-9_]+)(?:/([^/]+)(?:/([a-z_]+))?)?")
_ABOUT = {"vm": "vms", "machine": "machines"}
"""Columns that tell of one VM, and what they lead to."""
_VERSIONS = frozenset({"/version.json", "/api/version.json", "/api/v4/version.json"})
_SESSIONS = re.compile(r"(?:/api)?/sys/tokens(?:/([0-9a-f]{40}))?")


def is_ours(path: str) -> bool:
    """Whether a path belongs to this dialect."""
    return path.startswith(("/api/v4/", "/api/sys/", "/sys/tokens")) or path in _VERSIONS


def make_app(engine: Engine) -> ASGIApp:
    """The dialect over `engine`, at its absolute paths."""
    return App(engine)


class App:
    """See above."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks, self._jobs = Locks(), Jobs()
        self._samples = Samples(engine)
        unasked = Unasked(engine, self._locks, self._jobs, self._samples)
        engine.keeper.chores[f"{DIALECT} samples"] = self._samples.tick
        engine.tasks.hands[DIALECT] = unasked.perform
        engine.keeper.chores[DIALECT] = Chores(unasked).tick
        self._is_mended, self._mending = False, asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        await (await self._answer(request))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._handled(request)
        except Refusal as refusal:
            return errors.of_refusal(refusal)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Fault as fault:
            if fault.private:
                log.warning("%s: %s (%s)", request.url.path, fault.public, fault.private)
            return errors.of_fault(fault)
        except Exception:  # told as what it is, with the details in the log only
            log.exception("%s", request.url.path)
            return errors.of_fault(Internal())

    async def _handled(self, request: Request) -> Response:
        path = request.url.path.rstrip("/")
        if path in _VERSIONS:
            return JSONResponse({"name": "v4", "version": VERSION, "hash": "polyvisor"})
        if match := _SESSIONS.fullmatch(path):
            return await sessions.answer(self._engine, request, match[1])
        principal = await self._caller(request)
        await self._mend(request)
        match = _PATH.fullmatch(path)
        resource = RESOURCES.get(match[1]) if match else None
        if match is None or resource is None:
            raise Refusal(404, f"Resource '{path.removeprefix('/api')[:200]}' not found")
        if match[2] is None:
            return await self._table(request, principal, resource)
        return await self._row(request, principal, resource, match[2], match[3] or "")

    async def _mend(self, request: Request) -> None:
        """What an earlier server left half-done is cleared away, once, before anybody is told of it."""
        async with self._mending:
            if not self._is_mended:
                await importing.mend(self._call(request, SYSTEM))
                self._is_mended = True

    async def _caller(self, request: Request) -> Principal:
        source = source_of(request)
        if token := request.headers.get("x-yottabyte-token"):
            return await self._engine.sessions.caller(token, source)
        credential = from_authorization(request.headers.get("authorization", ""), source)
        if credential is None:
            raise errors.LOGIN
        return await self._engine.authenticate(credential)

    # -- tables --------------------------------------------------------------------------------------------------------

    async def _table(self, request: Request, principal: Principal, resource: Resource) -> Response:
        if request.method == "GET":
            query = asking.parse_query(request.query_params)
            if resource.empty:
                return JSONResponse([{"$count": 0}] if query.fields == () else [])
            needed = asking.needs(CATALOG, resource.table.name, query)
            world = self._world(principal, await self._about(resource, query.filter))
            sources = {name: await RESOURCES[name].load(world) for name in sorted(needed)}
            # in a thread: what a large one takes must not be what everybody else waits for
            return JSONResponse(
                await asyncio.to_thread(asking.run, CATALOG, resource.table.name, query, sources, world.now)
            )
        if request.method != "POST" or resource.create is None:
            raise Refusal(405, f"{request.method} is not permitted on '{resource.table.name}'")
        values = resource.table.body(await _body(request), new=True)
        made = await resource.create(self._call(request, principal, await self._told(resource, values)), values)
        if made.key is None:
            return JSONResponse({} if made.response is None else {"response": dict(made.response)}, 201)
        key = made.key if isinstance(made.key, int) else str(made.key)
        return JSONResponse(receipt(resource.table.name, key, made.response), 201)

    async def _about(self, resource: Resource, asked: Filter) -> set[InstanceId] | None:
        """The one VM that is asked about, as clients do who have its machine's key; None: any."""
        if not resource.of_vm or not all(asked.ands):
            return None
        for term in asked.terms:
            if isinstance(term, Filter):
                if len(asked.terms) == 1:
                    return await self._about(resource, term)
                continue
            if (key := _machine(term)) is not None:
                return await self._owner(key)
        return None

    async def _told(self, resource: Resource, values: Mapping[str, Any]) -> set[InstanceId] | None:
        """The one VM that a new row is told to be about; None: any."""
        for name, table in _ABOUT.items():
            column = resource.table.column(name)
            if column is not None and column.refers == table and isinstance(values.get(name), int):
                return await self._owner(values[name])
        return None

    async def _owner(self, key: int) -> set[InstanceId] | None:
        """Whose row that is; nobody's: no VM at all."""
        try:
            row = await self._engine.rows.get(DIALECT, key)
        except NotFound:
            return set()
        foreign = row.name.startswith(
            (FOREIGN, f"snap/{FOREIGN}")
        )  # about a snapshot of the engine's, not about its VM
        return {InstanceId(row.subject)} if row.subject and not foreign else None

    # -- rows ----------------------------------------------------------------------------------------------------------

    async def _row(
        self, request: Request, principal: Principal, resource: Resource, word: str, action: str
    ) -> Response:
        table, method = resource.table, request.method
        if word == "$table" and method == "GET":
            return JSONResponse(table.schema())
        key: object = int(word) if word.isascii() and word.isdecimal() and len(word) < 19 else word
        only = await self._owner(key) if resource.of_vm and isinstance(key, int) else None
        call = self._call(request, principal, only)
        source = await _found(call, resource, key, method)
        action = action or (request.query_params.get("action", "") if method in ("PUT", "POST") else "")
        if method == "GET" and not action:
            if resource.download is not None and request.query_params.get("download"):
                return await resource.download(call, source)
            return await self._shown(call, resource, source)
        if action and method in ("PUT", "POST"):
            act = resource.acts.get(action)
            if act is None:
                raise Refusal(422, f"value '{action[:100]}' is not in list for field 'action'")
            answer = await act(call, source, await _body(request))
            return Response() if answer is None else JSONResponse(answer)
        if method == "PUT" and resource.upload is not None and "filepos" in request.query_params:
            return await resource.upload(call, source)
        if method == "PUT" and resource.change is not None:
            await resource.change(call, source, table.body(await _body(request), new=False))
            return Response()  # empty: so clients read the row anew (vergeos.md §0, fact 6)
        if method == "DELETE" and resource.remove is not None:
            await resource.remove(call, source)
            return Response()
        raise Refusal(405, f"{method} is not permitted on '{table.name}'")

    async def _shown(self, call: Call, resource: Resource, source: Any) -> Response:
        query = asking.parse_query(call.request.query_params)
        needed = asking.needs(CATALOG, resource.table.name, query)
        sources = {name: await RESOURCES[name].load(call.world) for name in sorted(needed)}
        return JSONResponse(asking.one(CATALOG, resource.table.name, query, source, sources, call.now))

    def _world(self, principal: Principal, only: set[InstanceId] | None = None) -> World:
        return World(self._engine, principal, int(self._engine.clock().timestamp()), self._samples, only)

    def _call(self, request: Request, principal: Principal, only: set[InstanceId] | None = None) -> Call:
        return Call(request, self._engine, principal, self._world(principal, only), self._locks, self._jobs)


async def _found(call: Call, resource: Resource, key: object, method: str) -> Any:
    """:raise Refusal: 404, as the client asked for it."""
    of = resource.table.columns[0].get
    for source in await resource.load(call.world):
        if of(source) == key:
            return source
    verb = {"GET": "get", "PUT": "put", "DELETE": "delete"}.get(method, "post")
    raise errors.missing(f"{resource.table.name}/{str(key)[:100]}", verb)


def _machine(term: Condition) -> int | None:
    """The key in `machine eq KEY`."""
    if term.path != ("machine",) or term.operator != "eq" or not isinstance(term.literal, tuple):
        return None
    text = term.literal[0] if len(term.literal) == 1 else ""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 19 else None


async def _body(request: Request) -> Mapping[str, Any]:
    """:raise Refusal: 400, it is no JSON object. 413: it is too large."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY_LIMIT:
            raise Refusal(413, "The body is too large")
    try:
        body = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "The body is not valid JSON") from error
    if not isinstance(body, dict):
        raise Refusal(400, "The body is not a JSON object")
    return body
