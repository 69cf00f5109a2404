"""Guests and hosts that try to get at a value, or to hold on to what is everybody's, over this machine's loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import h11
import pytest

from polyvisor.host.vaults import hello, opener
from polyvisor.host.vaults.speech import injected, refusal, veiled
from polyvisor.model.ids import VaultId
from polyvisor.model.vault import Opening
from unit.host.vaults.test_hello import words
from unit.host.vaults.test_opener import HOST, Place, ask, get, place

__all__ = ["place"]  # fixtures
TWO_LENGTHS = (
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
)


def opened(word: bytes, value: bytes) -> Opening:
    """A service with a word in its path."""
    return Opening(VaultId("v"), "KEY", (), ((word, value),), ((value, b"KEY"),))


def request(path: str) -> h11.Request:
    """One for it."""
    return h11.Request(method="GET", target=path, headers=[("Host", HOST)])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (TWO_LENGTHS % HOST.encode(), b"400"),
        (b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n" % HOST.encode(), b"400"),
        (b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" % HOST.encode(), b"501"),
        (b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding : chunked\r\n\r\n" % HOST.encode(), b"400"),
        (b"trace / HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST.encode(), b"405"),
        (b"TRACK / HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST.encode(), b"405"),
        (b"CONNECT other.example.com:443 HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST.encode(), b"405"),
        (b"GET //other.example.com@%s HTTP/1.1\r\nHost: other.example.com\r\n\r\n" % HOST.encode(), b"421"),
        (get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"421"),
        (b"GET / HTTP/1.0\r\n\r\n", b"421"),
        (b"GET / HTTP/1.1\r\nHost: %s:444\r\n\r\n" % HOST.encode(), b"421"),
        (b"GET / HTTP/1.1\r\nHost: %s, other.example.com\r\n\r\n" % HOST.encode(), b"421"),
        (b"GET / HTTP/1.1\r\nHost: %s\r\nX: %s\r\n\r\n" % (HOST.encode(), b"x" * 70_000), b"431"),
    ],
)
async def test_what_could_be_read_in_two_ways_is_not_handed_on(place: Place, request_: bytes, status: bytes) -> None:
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))

    place.handle = handle
    way = await place.dial()
    head, _ = await ask(way, request_)
    assert head.startswith(b"HTTP/1.1 " + status) and place.records.seen == []
    assert await way[0].read() == b"" and heard in ([], [b""])
    way[1].close()


async def test_a_folded_header_is_one_header(place: Place) -> None:
    way = await place.dial()
    _, body = await ask(way, get("/", "X-Own: a", "\tAuthorization: Bearer KEY"))
    assert body.lower().count(b"authorization: bearer secret") == 1 and body.lower().count(b"\r\nauthorization") == 1


async def test_requests_that_are_said_at_once_are_each_looked_at(place: Place) -> None:
    reader, writer = await place.dial()
    writer.write(get("/1") + get("/2") + get("/3", host="other.example.com") + get("/4"))
    said = await reader.read()
    while more := await reader.read():
        said += more
    assert said.lower().count(b"bearer secret") == 2 and b" 421 " in said and b"get /4" not in said.lower()


def test_a_value_is_put_in_once_where_its_word_is_a_part_of_it() -> None:
    assert injected(request("/botKEY/KEY?KEY"), opened(b"KEY", b"1:KEYS")).target == b"/bot1:KEYS/1:KEYS?KEY"
    assert injected(request("/%7Bbot%7D/x"), opened(b"{bot}", rb"a\1")).target == b"/a%5C1/x"


def test_what_a_short_word_stands_for_has_a_limit() -> None:
    used = opened(b"a", b"x" * 16_000)
    assert refusal(request("/" + "a" * 4), HOST, used) is None
    assert refusal(request("/" + "a" * 8000), HOST, used) == (414, "the target is too long")


def test_a_value_does_not_come_back_however_it_is_written() -> None:
    used = opened(b"{bot}", b"12:a/b+c")
    again = [("Location", f"/{one}/x") for one in ("12:a/b+c", "12:a%2Fb+c", "12%3Aa%2Fb%2Bc", "12%3aa%2fb%2bc")]
    assert veiled(h11.Response(status_code=302, headers=again).headers, used) == [(b"Location", b"/{bot}/x")] * 4


def test_a_value_that_holds_another_is_hidden_as_a_whole_and_no_length_is_changed() -> None:
    used = Opening(VaultId("v"), "ME, KEY", hidden=((b"1", b"ME"), (b"1-more", b"KEY1")))
    answer = h11.Response(status_code=200, headers=[("X-A", "1-more 1"), ("Content-Length", "11")])
    assert veiled(answer.headers, used) == [(b"X-A", b"KEY1 ME"), (b"Content-Length", b"11")]


async def test_a_value_is_in_no_reason_and_in_no_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    answers = [b"HTTP/1.1 200 secret\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nsecret\r\n\r\n"]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

    place.handle = handle
    way = await place.dial()
    with caplog.at_level(logging.DEBUG, "polyvisor"):
        assert (await ask(way, get()))[0].startswith(b"HTTP/1.1 200 KEY\r\n")
        assert (await ask(way, get()))[0].startswith(b"HTTP/1.1 502")
    assert "secret" not in caplog.text and "RemoteProtocolError" in caplog.text


async def test_a_guest_that_leaves_is_not_waited_for(place: Place) -> None:
    left = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while await reader.read(100):  # it would answer one day
            pass
        left.set()

    place.handle = handle
    for rest in (b"Content-Length: 0\r\n\r\n", b"Content-Length: 9\r\n\r\nhalf"):
        left.clear()
        _, writer = await place.dial()
        writer.write(b"POST / HTTP/1.1\r\nHost: %s\r\n" % HOST.encode() + rest)
        await asyncio.sleep(0.2)
        writer.close()
        async with asyncio.timeout(20):
            await left.wait()


async def test_an_answer_that_comes_before_all_was_said_is_handed_on(place: Place) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    place.handle = handle
    way = await place.dial()
    head, _ = await ask(way, b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 999999\r\n\r\nx" % HOST.encode())
    assert head.startswith(b"HTTP/1.1 413") and await way[0].read() == b""


async def test_what_a_host_says_unasked_is_the_end(place: Place) -> None:
    spoke = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        spoke.set()
        await reader.read()

    place.handle = handle
    reader, _ = await place.dial()
    async with asyncio.timeout(20):
        await spoke.wait()
        assert await reader.read() == b""
    assert place.records.seen == []


async def test_a_guest_that_begins_and_does_not_go_on_is_not_asked_all_the_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bytes] = []

    def host_in(data: bytes) -> str | None:
        looked.append(data)
        return hello.host_in(data)

    monkeypatch.setattr(opener, "host_in", host_in)
    monkeypatch.setattr(opener, "_HANDSHAKE", 1.0)
    reader, writer = await place.dial(certified=False)
    writer.write(b"\x16\x03")
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(20):
            assert await reader.read() == b""  # its time is over
    assert looked == [b"\x16\x03"]


async def test_a_beginning_in_pieces_is_read_to_its_end(place: Place) -> None:
    reader, writer = await place.dial(certified=False)
    said = words(HOST)
    for piece in (said[:3], said[3:90], said[90:]):
        writer.write(piece)
        await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        assert await reader.readexactly(1) == b"\x16"
