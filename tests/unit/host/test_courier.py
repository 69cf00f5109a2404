"""Letters: where they may go, and where they go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from dialect.instavm.receiver import Receiver, receiving
from polyvisor.host import courier
from polyvisor.host.courier import HttpCourier
from polyvisor.host.images import addresses
from polyvisor.model.faults import Invalid
from polyvisor.model.letter import Letter
from polyvisor.server.bootstrap import ensure_certificate


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Who is written to."""
    async with receiving() as found:
        yield found


def letter(url: str, timeout: float = 10.0) -> Letter:
    """One."""
    return Letter(url, b"{}", {"X-Word": "y"}, timeout)


def stand(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str]) -> list[str]:
    """What names stand for, from question to question; who was asked for."""
    asked: list[str] = []

    async def look(host: str, _: int) -> Sequence[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    monkeypatch.setattr(courier, "addresses", look)
    monkeypatch.setattr(addresses, "addresses", look)
    return asked


async def test_one_address_that_is_not_public_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    stand(monkeypatch, ["1.1.1.1"], ["1.1.1.1", "10.0.0.1"], [], ["1.1.1.1", "127.0.0.1"])
    await HttpCourier().check("https://hook.test/", private=False)
    for _ in range(2):
        with pytest.raises(Invalid, match="public addresses alone") as refused:
            await HttpCourier().check("https://hook.test/", private=False)
        assert refused.value.field == "url"
    assert "public" in (await HttpCourier().post(letter("http://hook.test/"), private=False)).error


async def test_nor_is_an_address_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    assert courier.is_ours("127.0.0.1")
    assert not courier.is_ours("192.0.2.1")
    stand(monkeypatch, ["1.1.1.1"])
    monkeypatch.setattr(courier, "is_ours", lambda address: address == "1.1.1.1")
    with pytest.raises(Invalid, match="public addresses alone"):
        await HttpCourier().check("https://hook.test/", private=False)


async def test_the_address_that_was_judged_is_the_one_that_is_gone_to(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    asked = stand(monkeypatch, ["127.0.0.1"])
    receipt = await HttpCourier().post(letter(f"http://Hook.test:{receiver.port}/a?b=c"), private=True)
    assert (receipt.status, receipt.taken, receipt.error) == (200, True, "")
    assert asked == ["hook.test"]
    (got,) = receiver.got
    assert (got.headers[":line"], got.body) == ("POST /a?b=c HTTP/1.1", b"{}")
    assert (got.headers["Host"], got.headers["X-Word"]) == (f"hook.test:{receiver.port}", "y")


async def test_the_next_address_is_tried_when_one_takes_no_connection(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    stand(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    assert (await HttpCourier().post(letter(f"http://hook.test:{receiver.port}/"), private=True)).taken
    assert len(receiver.got) == 1


async def test_what_goes_wrong_is_told(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    sender = HttpCourier()
    receiver.answers += [302, 503]
    for status in (302, 503):
        receipt = await sender.post(letter(receiver.url), private=True)
        assert (receipt.status, receipt.taken) == (status, False)
    assert len(receiver.got) == 2  # a redirect leads nowhere
    assert (await sender.post(letter(receiver.url.replace("127.0.0.1", "127.0.0.2")), private=True)).error

    gone = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side hangs up
        writer.close()
        await writer.wait_closed()
        gone.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        receipt = await sender.post(letter(f"http://127.0.0.1:{port}/", 0.2), private=True)
        assert (receipt.status, receipt.error) == (None, "no answer within 0.2 s")
        await gone.wait()


async def test_a_certificate_is_of_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand(monkeypatch, ["127.0.0.1"], ["127.0.0.1"])
    certificate, key = ensure_certificate(tmp_path)  # of localhost
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    trusted = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusted)
    receiver, sender = Receiver(), HttpCourier()
    async with await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await sender.post(letter(f"https://localhost:{port}/"), private=True)).taken
        receipt = await sender.post(letter(f"https://hook.test:{port}/"), private=True)
    assert "certificate" in receipt.error
    assert len(receiver.got) == 1
