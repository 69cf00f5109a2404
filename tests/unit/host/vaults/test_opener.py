"""A guest's connection through who puts credentials in, to a host of the test's, over this machine's loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import h11
import pytest

from polyvisor.host.vaults.authority import Authority
from polyvisor.host.vaults.opener import Opener, believing
from polyvisor.host.vaults.speech import Way, veiled
from polyvisor.model.ids import InstanceId, VaultId
from polyvisor.model.vault import Opening

HOST = "api.example.com"
USED = Opening(
    VaultId("v"), "KEY", (("Authorization", b"Bearer secret"),), ((b"TOKEN", b"se:c/t"),), ((b"secret", b"KEY"),)
)
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Records:
    """See `ports.vaults.Vaults`."""

    known: dict[str, Opening] = field(default_factory=lambda: {HOST: USED})
    seen: list[tuple[str, int]] = field(default_factory=list)

    async def opening(self, id: InstanceId, host: str) -> Opening | None:
        """What is known."""
        return self.known.get(host)

    def note(self, opening: Opening, host: str, status: int) -> None:
        """One more."""
        self.seen.append((host, status))


@dataclass
class Place:
    """A host that does what `handle` does, and guests on their way to it."""

    records: Records
    guests: Authority
    hosts: Authority
    folder: Path
    handle: Handle | None = None

    async def dial(self, *, sni: str | None = HOST, believed: bool = True, certified: bool = True) -> Way:
        """A guest's connection. `believed`: the host's authority is; `certified`: the guest speaks TLS."""
        where = ("127.0.0.1", self.port)
        (self.folder / "more.pem").write_bytes(self.hosts.certificate)
        tls = believing(str(self.folder / "more.pem") if believed else "")
        ours, theirs = socket.socketpair()
        with socket.create_server(("127.0.0.1", 0)) as door:
            theirs.close()
            ours.close()
            ours = socket.create_connection(door.getsockname())
            theirs, _ = door.accept()
        ours.setblocking(False)
        theirs.setblocking(False)
        opener = Opener(InstanceId("i"), self.records, self.guests, tls, self._connect)
        self.tasks.append(asyncio.create_task(opener.serve(theirs, where)))
        if not certified:
            self.ways.append(way := await asyncio.open_connection(sock=ours))
            return way
        pem = (self.guests.certificate + self.hosts.certificate).decode()
        context = ssl.create_default_context(cadata=pem)
        try:
            self.ways.append(way := await asyncio.open_connection(sock=ours, ssl=context, server_hostname=sni))
            return way
        except OSError:
            ours.close()
            raise

    async def _connect(self, where: tuple[str, int]) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, where)
        except OSError:
            made.close()
            raise
        return made

    port: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)

    async def leave(self) -> None:
        """All that was begun is over."""
        for _, writer in self.ways:
            writer.close()
            with contextlib.suppress(AttributeError):  # of Python 3.11, where it is gone already
                writer.transport.abort()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """One whose host answers each request with what it was asked, unless it is told otherwise."""
    made = Place(Records(), Authority(tmp_path / "guests"), Authority(tmp_path / "hosts"), tmp_path)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.ways.append((reader, writer))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            await (made.handle or echo)(reader, writer)
        writer.close()

    context = await made.hosts.context(HOST)
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made
        await made.leave()
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say the head of each request again, in lower case, where a body's length is told."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        size = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        body = head + await reader.readexactly(size)
        writer.write(
            b"HTTP/1.1 200 OK\r\nX-Again: Bearer secret\r\nAlt-Svc: h3\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)


async def ask(way: Way, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to a request."""
    reader, writer = way
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    size = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    return head, await reader.readexactly(size)


def get(path: str = "/", *more: str, host: str = HOST) -> bytes:
    """A request."""
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *more, "", ""]).encode()


async def test_each_request_of_a_connection_has_the_value_in_it(place: Place) -> None:
    way = await place.dial()
    for number in range(3):
        head, body = await ask(way, get(f"/{number}/TOKEN?TOKEN", "Authorization: Bearer KEY", "X-Own: a"))
        asked = body.lower()
        assert f"get /{number}/se:c%2ft?token http/1.1".encode() in asked and b"x-own: a" in asked
        assert asked.count(b"authorization:") == 1 and b"authorization: bearer secret" in asked
        assert b"secret" not in head and b"X-Again: Bearer KEY" in head and b"alt-svc" not in head.lower()
    assert place.records.seen == [(HOST, 200)] * 3
    with_body = b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 200000\r\n\r\n" % HOST.encode() + b"x" * 200_000
    assert (await ask(way, with_body))[1].endswith(b"x" * 200_000)
    way[1].close()


def test_a_value_does_not_come_back_in_a_header_as_it_was_or_as_it_stood_in_a_path() -> None:
    again = [("Location", "/botse:c%2Ft/x"), ("X-A", "Bearer secret"), ("Alt-Svc", "h3")]
    answer = h11.Response(status_code=302, headers=again)
    assert veiled(answer.headers, USED) == [(b"Location", b"/botTOKEN/x"), (b"X-A", b"Bearer KEY")]


async def test_a_body_in_chunks_goes_through_as_it_comes(place: Place) -> None:
    got = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readuntil(b"one") == b"3\r\none"
        got.set()  # the guest has not said all
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"0\r\n\r\n")

    place.handle = handle
    reader, writer = await place.dial()
    writer.write(b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n" % HOST.encode())
    async with asyncio.timeout(20):
        await got.wait()
        await reader.readuntil(b"two")
        writer.write(b"0\r\n\r\n")
        assert await reader.readuntil(b"0\r\n\r\n")
    writer.close()


async def test_a_connection_may_go_over_to_something_else(place: Place) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Bearer secret" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        while data := await reader.read(100):
            writer.write(data.upper())

    place.handle = handle
    reader, writer = await place.dial()
    writer.write(get("/", "Upgrade: websocket", "Connection: Upgrade"))
    assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 101")
    writer.write(b"frame")
    assert await reader.readexactly(5) == b"FRAME"
    writer.close()


async def test_what_is_taken_back_holds_for_no_further_request(place: Place) -> None:
    way = await place.dial()
    await ask(way, get())
    place.records.known[HOST] = Opening(VaultId("v"), "KEY", (("Authorization", b"Bearer other"),))
    assert b"Bearer other" in (await ask(way, get()))[1]
    place.records.known.clear()
    way[1].write(get())
    assert await way[0].read() == b""
    again = await place.dial()
    assert b"authorization" not in (await ask(again, get()))[1].lower()  # and is not opened up any more
    assert again[1].get_extra_info("ssl_object").getpeercert(True) != way[1].get_extra_info("ssl_object").getpeercert(
        True
    )
    again[1].close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get(host="other.example.com"), b"421"),
        (b"TRACE / HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST.encode(), b"405"),
        (b"GET https://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n" % (HOST.encode(), HOST.encode()), b"400"),
        (b"GET / HTTP/1.1\r\nHost: %s\r\nHost: %s\r\n\r\n" % (HOST.encode(), HOST.encode()), b"400"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
async def test_what_is_not_handed_on(place: Place, request_: bytes, status: bytes) -> None:
    way = await place.dial()
    head, _ = await ask(way, request_)
    assert head.startswith(b"HTTP/1.1 " + status) and place.records.seen == []
    assert await way[0].read() == b""
    way[1].close()


async def test_a_host_that_cannot_prove_who_it_is_is_told_nothing(place: Place) -> None:
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(1))

    place.handle = handle
    way = await place.dial(believed=False)
    head, body = await ask(way, get())
    assert head.startswith(b"HTTP/1.1 502") and b"not believed" in body and asked in ([], [b""])
    place.records.known["b.example.com"] = USED
    other = await place.dial(sni="b.example.com")
    assert (await ask(other, get(host="b.example.com")))[0].startswith(b"HTTP/1.1 502")
    for one in (way, other):
        one[1].close()


async def test_what_is_no_tls_or_nobodys_passes_as_it_is(place: Place) -> None:
    place.records.known.clear()
    way = await place.dial()
    assert b"Bearer KEY" in (await ask(way, get("/", "Authorization: Bearer KEY")))[1]
    assert place.records.seen == []
    plain = await place.dial(certified=False)
    plain[1].write(b"no TLS at all\r\n\r\n")
    said = await plain[0].read()  # the host's own refusal, whatever it is
    assert b"polyvisor" not in said
    for one in (way, plain):
        one[1].close()


async def test_where_nobody_answers_the_guest_is_reset(place: Place) -> None:
    place.port = 1
    with pytest.raises(OSError):
        await place.dial()
