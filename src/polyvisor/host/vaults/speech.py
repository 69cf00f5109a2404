"""A guest's requests to one host, handed on with credentials in them, and the answers. h11 knows what a request is.

Nothing is read ahead of who takes it, and bodies are not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import cast
from urllib.parse import quote

import h11

from polyvisor.model.vault import Opening

log = logging.getLogger("polyvisor.vaults")
CHUNK = 64 * 1024
_IDLE = 300.0  # seconds between requests
_URL_SAFE = "~:@!$&'()*+,;=-._"
_SWITCHING = 101
_BAD_REQUEST, _NOT_ALLOWED, _TOO_LONG, _MISDIRECTED, _BAD_GATEWAY = 400, 405, 414, 421, 502
_REFUSED_METHODS = (b"CONNECT", b"TRACE", b"TRACK")  # a tunnel, and those that are told their own headers
_LONGEST_TARGET = 64 * 1024  # bytes; a short word may stand for a long value, and be there often
_NOT_FOR_GUESTS = (b"alt-svc",)  # another way to the host, which nobody would put credentials on
_FRAMING = (b"connection", b"content-length", b"transfer-encoding")  # a short value may be found in these, too
Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Headers = Sequence[tuple[bytes, bytes]]


class _Ended(Exception):
    """Whoever is at the other end has left."""


# -- what is changed: pure ---------------------------------------------------------------------------------------------


def refusal(request: h11.Request, host: str, opening: Opening) -> tuple[int, str] | None:
    """Why this is not handed on; None: it is."""
    if request.method.upper() in _REFUSED_METHODS:
        return _NOT_ALLOWED, "this method is not handed on"
    if not request.target.startswith(b"/") and request.target != b"*":
        return _BAD_REQUEST, "the target must be a path"
    names = {name for name, _ in request.headers}
    if {b"content-length", b"transfer-encoding"} <= names:  # who reads the other one sees two requests
        return _BAD_REQUEST, "the body has two lengths"
    if any(name == b"upgrade" and b"h2c" in value.lower() for name, value in request.headers):
        return _BAD_REQUEST, "HTTP/2 is not handed on"
    named = next((value for name, value in request.headers if name == b"host"), b"").decode("latin-1").lower()
    if named.removesuffix(":443").rstrip(".") != host:
        return _MISDIRECTED, "the request is for another host than the connection"
    path = request.target.partition(b"?")[0]
    more = sum(len(value) * len(_standing_for(word).findall(path)) for word, value in opening.path)
    return (_TOO_LONG, "the target is too long") if more > _LONGEST_TARGET else None


def injected(request: h11.Request, opening: Opening) -> h11.Request:
    """The request as the host is to see it."""
    taken = {name.lower().encode() for name, _ in opening.headers}
    headers = [(name, value) for name, value in request.headers.raw_items() if name.lower() not in taken]
    headers += [(name.encode(), value) for name, value in opening.headers]
    path, mark, query = request.target.partition(b"?")
    for word, value in opening.path:
        path = _standing_for(word).sub(_in_path(value), path)  # where no backslash is left
    return h11.Request(method=request.method, target=path + mark + query, headers=headers)


def _standing_for(word: bytes) -> re.Pattern[bytes]:
    """A placeholder as it may be in a path."""
    return re.compile(b"|".join(map(re.escape, dict.fromkeys((word, quote(word, safe="").encode())))))


def _in_path(value: bytes) -> bytes:
    return quote(value, safe=_URL_SAFE).encode()


def veiled(headers: h11._headers.Headers, opening: Opening) -> list[tuple[bytes, bytes]]:
    """An answer's headers as the guest may see them: a host may say again what it was told."""
    return [
        (name, value if name.lower() in _FRAMING else _without(value, opening))
        for name, value in headers.raw_items()
        if name.lower() not in _NOT_FOR_GUESTS
    ]


def _without(text: bytes, opening: Opening) -> bytes:
    """The text with words for all values, however these are written; the longest first, which may hold others."""
    pairs = [*((value, word) for word, value in opening.path), *opening.hidden]
    words = {form: word for value, word in reversed(pairs) for form in _forms(value)}
    some = b"|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.sub(some, lambda found: words[found[0]], text) if some else text


def _forms(value: bytes) -> list[bytes]:
    quoted = [_in_path(value), quote(value, safe="").encode()]
    lower = [re.sub(rb"%[0-9A-F]{2}", lambda found: found[0].lower(), one) for one in quoted]
    return list(dict.fromkeys((value, *quoted, *lower)))


# -- the conversation --------------------------------------------------------------------------------------------------


class Speech:
    """One connection of a guest's and one to the host, for as many requests as they last."""

    def __init__(
        self, host: str, guest: Way, server: Way, look: Callable[[], Awaitable[Opening | None]],
        note: Callable[[Opening, int], None],
    ) -> None:  # fmt: skip
        self._host = host
        self._guest, self._server = guest, server
        self._look, self._note = look, note
        self._here, self._there = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)

    async def run(self) -> None:
        """Until one of them ends it, or what holds has changed."""
        with contextlib.suppress(_Ended, OSError, TimeoutError):
            while await self._exchange():
                self._here.start_next_cycle()
                self._there.start_next_cycle()

    async def _exchange(self) -> bool:
        """One request and its answer; whether there may be another."""
        request = await self._asked()
        if request is None:
            return False
        opening = await self._look()
        if opening is None:  # from now on it is none of ours; who tries again is led past us
            return False
        no = refusal(request, self._host, opening)
        if no is not None:
            await refuse(self._here, self._guest[1], *no)
            return False
        await self._send(self._there, self._server[1], injected(request, opening))
        body = asyncio.create_task(self._hand_on(), name="vault request")
        answer = asyncio.create_task(self._answer(opening, body), name="vault answer")
        leaving = asyncio.create_task(self._gone(body), name="vault guest")
        try:
            await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
            again = answer.done() and answer.result()
        finally:
            for task in (body, answer, leaving):
                task.cancel()
            await asyncio.gather(body, answer, leaving, return_exceptions=True)
        if self._there.our_state is h11.SWITCHED_PROTOCOL:
            await self._join()
        return again

    async def _asked(self) -> h11.Request | None:
        """The next request; None: there is none, the host has left, or this makes no sense."""
        asking = asyncio.create_task(_event(self._here, self._guest[0]))
        leaving = asyncio.create_task(self._server[0].read(1))  # nobody asked: whatever it says is the end
        try:
            await asyncio.wait({asking, leaving}, timeout=_IDLE, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() or not asking.done():
                return None
            event = asking.result()
            return event if isinstance(event, h11.Request) else None
        except h11.RemoteProtocolError as error:
            await refuse(self._here, self._guest[1], error.error_status_hint, "this is no request")
            return None
        finally:
            for task in (asking, leaving):
                task.cancel()
            await asyncio.gather(asking, leaving, return_exceptions=True)

    async def _hand_on(self) -> None:
        """The request's body."""
        while True:
            event = await _event(self._here, self._guest[0])
            if not isinstance(event, h11.Data | h11.EndOfMessage):
                raise _Ended
            try:
                await self._send(self._there, self._server[1], event)
            except OSError:  # it hears no more, and may have answered before
                await asyncio.Event().wait()
            if isinstance(event, h11.EndOfMessage):
                return

    async def _gone(self, body: asyncio.Task[None]) -> None:
        """Once the guest has left: nobody waits for the answer. What it says before that is for later."""
        with contextlib.suppress(_Ended, OSError, h11.ProtocolError):
            await body
            if data := await self._guest[0].read(CHUNK):
                self._here.receive_data(data)
                await asyncio.Event().wait()

    async def _answer(self, opening: Opening, body: asyncio.Task[None]) -> bool:
        said = False
        try:
            while True:
                event = await _event(self._there, self._server[0])
                match event:
                    case h11.InformationalResponse():
                        if event.status_code == _SWITCHING:
                            await body  # it has none, and that has to be known before both go over
                            await self._tell(_veiled(event, opening))
                            self._note(opening, event.status_code)
                            return False
                        await self._tell(_veiled(event, opening))
                    case h11.Response():
                        self._note(opening, event.status_code)
                        said = True
                        await self._tell(_veiled(event, opening))
                    case h11.Data():
                        await self._tell(event)
                    case h11.EndOfMessage():
                        await self._tell(h11.EndOfMessage(headers=veiled(event.headers, opening)))
                        return self._again()
                    case _:
                        raise h11.RemoteProtocolError("the host has left")
        except h11.ProtocolError as error:  # its words may be the host's, which may be the value
            log.info("%s: %s", self._host, type(error).__name__)
            if not said:
                self._note(opening, _BAD_GATEWAY)
                await refuse(self._here, self._guest[1], _BAD_GATEWAY, "the host's answer makes no sense")
            return False

    def _again(self) -> bool:
        states = (self._here.our_state, self._here.their_state, self._there.our_state, self._there.their_state)
        return all(state is h11.DONE for state in states)

    async def _tell(self, event: h11.Event) -> None:
        await self._send(self._here, self._guest[1], event)

    async def _send(self, connection: h11.Connection, writer: asyncio.StreamWriter, event: h11.Event) -> None:
        data = connection.send(event)
        if data:
            writer.write(data)
            await writer.drain()

    async def _join(self) -> None:
        """They speak something else from here on."""
        self._server[1].write(self._here.trailing_data[0])
        self._guest[1].write(self._there.trailing_data[0])
        ways = ((self._guest[0], self._server[1]), (self._server[0], self._guest[1]))
        pumps = [asyncio.create_task(_pump(*way)) for way in ways]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


def _veiled(
    answer: h11.Response | h11.InformationalResponse, opening: Opening
) -> h11.Response | h11.InformationalResponse:
    reason = _without(answer.reason, opening)
    return type(answer)(status_code=answer.status_code, headers=veiled(answer.headers, opening), reason=reason)


async def _event(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | type[h11.PAUSED]:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return cast("h11.Event | type[h11.PAUSED]", event)
        connection.receive_data(await reader.read(CHUNK))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


async def refuse(connection: h11.Connection, writer: asyncio.StreamWriter, status: int, text: str) -> None:
    """An answer of ours, after which the connection ends."""
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    body = f"polyvisor vaults: {text}\n".encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Connection", "close")]
    with contextlib.suppress(OSError, h11.LocalProtocolError):
        said = (
            connection.send(h11.Response(status_code=status, headers=headers)),
            connection.send(h11.Data(data=body)),
        )
        writer.write(b"".join(one for one in said if one))
        await writer.drain()


async def tell_failure(guest: Way, text: str) -> None:
    """The host cannot be spoken to: that is the answer to the first request."""
    connection = h11.Connection(h11.SERVER)
    with contextlib.suppress(OSError, h11.RemoteProtocolError, TimeoutError):
        async with asyncio.timeout(_IDLE):
            if isinstance(await _event(connection, guest[0]), h11.Request):
                await refuse(connection, guest[1], _BAD_GATEWAY, text)
