"""`vm.terminal`: the shell over a WebSocket, who is refused before the upgrade, and the page."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dialect.hanzo.conftest import Caller
from dialect.served import Served, fresh, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")


def address(served: Served, **query: str) -> str:
    """Of the socket."""
    words = "&".join(f"{name}={value}" for name, value in query.items())
    return served.url.replace("http", "ws") + f"/api/vm.terminal?{words}"


def open_socket(url: str, **headers: str) -> Any:
    """A connection; no proxy is asked."""
    return connect(url, additional_headers=headers, proxy=None)


async def refused(url: str, **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and the error with which an upgrade is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with open_socket(url, **headers):
            pass
    answer = caught.value.response
    assert answer.headers["content-type"] == "application/json"
    assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= set(map(str.lower, answer.headers))
    error = json.loads(answer.body)["error"]
    assert error["httpStatus"] == answer.status_code and error["data"]["path"] == "vm.terminal"
    return answer.status_code, error


async def until(socket: ClientConnection, text: bytes) -> bytes:
    """What is said until that is."""
    said = b""
    async with asyncio.timeout(10):
        while text not in said:
            piece = await socket.recv()
            assert isinstance(piece, bytes)
            said += piece
    return said


@pytest_asyncio.fixture(loop_scope="session")
async def vm(root: Caller, org: str) -> str:
    """A machine that runs."""
    return str((await root.running(org))["id"])


async def test_a_shell_is_typed_into_and_resized(served: Served, root: Caller, vm: str) -> None:
    bearer = {"Authorization": f"Bearer {served.key}"}
    async with open_socket(address(served, vmId=vm, cols="100", rows="30"), **bearer) as socket:
        await until(socket, b"# ")
        await socket.send(b"echo by bytes\r")
        await until(socket, b"by bytes\r\n")
        await socket.send("stty size\r")  # as text
        await until(socket, b"30 100\r\n")
        await socket.send(json.dumps({"type": "resize", "cols": 132, "rows": 43}))
        await socket.send("stty size\r")
        await until(socket, b"43 132\r\n")
        await socket.send('{"not": "an order"}\r')
        await until(socket, b"not found")
        await socket.send("exit 3\r")
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await socket.recv()
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1000


async def test_a_size_that_is_none_ends_it(served: Served, root: Caller, vm: str) -> None:
    for order in ({"cols": 0, "rows": 1}, {"cols": "x"}, {}, {"cols": 10_000, "rows": 10}):
        async with open_socket(address(served, vmId=vm, token=served.key)) as socket:
            await socket.send(json.dumps({"type": "resize", **order}))
            with pytest.raises(ConnectionClosed) as caught:
                while True:
                    await socket.recv()
            assert caught.value.rcvd is not None and caught.value.rcvd.code == 1003


async def test_the_address_opens_once(served: Served, root: Caller, vm: str) -> None:
    told = await root.ok("GET vm.terminal", vmId=vm)
    assert told["url"].startswith(served.url.replace("http", "ws") + f"/api/vm.terminal?vmId={vm}&token=")
    assert told["page"] == f"{served.url}/api/vm.terminal.html?vmId={vm}"
    async with open_socket(told["url"]) as socket:
        await until(socket, b"# ")
    status, error = await refused(told["url"])
    assert (status, error["code"]) == (401, "UNAUTHORIZED")
    other = await root.running(await root.organization())
    (ticket,) = parse_qs(urlsplit((await root.ok("GET vm.terminal", vmId=vm))["url"]).query)["token"]
    assert (await refused(address(served, vmId=other["id"], token=ticket)))[0] == 401
    assert (await refused(address(served, vmId=vm, token=ticket)))[0] == 401  # it was shown, and is gone


async def test_a_token_in_an_address_is_in_no_log(
    served: Served, root: Caller, vm: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "uvicorn"):
        async with open_socket(address(served, vmId=vm, token=served.key)) as socket:
            await until(socket, b"# ")
        await refused(address(served, vmId=vm, token="secret"))
    assert "WebSocket /api/vm.terminal" in caplog.text
    assert served.key not in caplog.text and "secret" not in caplog.text


async def test_an_old_address_is_refused(served: Served, root: Caller, vm: str, monkeypatch: Any) -> None:
    tickets = served.parts.engine.terminals._tickets
    told = await root.ok("GET vm.terminal", vmId=vm)
    now = tickets._clock()
    monkeypatch.setattr(tickets, "_clock", lambda: now + 61)
    assert (await refused(told["url"]))[0] == 401


async def test_who_may_not_is_refused_before_the_upgrade(served: Served, root: Caller, vm: str, org: str) -> None:
    assert (await refused(address(served, vmId=vm)))[0] == 401
    assert (await refused(address(served, vmId=vm, token="wrong")))[0] == 401
    assert (await refused(address(served, vmId=vm), Authorization="Bearer wrong"))[0] == 401
    assert (await refused(address(served, token=served.key)))[0] == 400
    assert (await refused(address(served, vmId="vm_abc123", token=served.key)))[0] == 404
    stranger = await served.stranger()
    assert (await refused(address(served, vmId=vm, token=stranger)))[0] == 404
    reader = await root.ok("POST user.createToken", 201, name=fresh("t"), scopes=["read:*"], organizationId=org)
    assert (await refused(address(served, vmId=vm, token=reader["token"])))[0] == 403
    good = address(served, vmId=vm, token=served.key)
    for origin in ("http://evil.example", "null", "https://", served.url + ".evil.example", "http://["):
        assert (await refused(good, Origin=origin))[0] == 403
    async with open_socket(good, Origin=served.url) as socket:
        await until(socket, b"# ")
    await root.ok("POST vm.stop", vmId=vm)
    await root.until(vm, "stopped")
    status, error = await refused(good)
    assert (status, error["code"]) == (409, "CONFLICT") and "must be running" in error["message"]
    message = await root.refused(409, "CONFLICT", "GET vm.terminal", vmId=vm)
    assert message.startswith("VM must be running to connect to terminal")


async def test_a_machine_has_ten_at_most(served: Served, root: Caller, vm: str) -> None:
    good = address(served, vmId=vm, token=served.key)
    sockets = [await open_socket(good) for _ in range(10)]
    assert (await refused(good))[0] == 409
    await sockets.pop().close()
    async with asyncio.timeout(10):
        while True:
            try:
                async with open_socket(good) as socket:
                    await until(socket, b"# ")
                break
            except InvalidStatus:
                await asyncio.sleep(0.05)
    for one in sockets:
        await one.close()


async def test_other_paths_have_no_socket(served: Served) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with open_socket(served.url.replace("http", "ws") + "/api/vm.one?vmId=x"):
            pass
    assert caught.value.response.status_code == 404


async def test_the_page_is_served_with_its_emulator(tmp_path: Path) -> None:
    lib = tmp_path / "xterm/lib"
    for folder in ("public", "addons/fit"):
        (lib / folder).mkdir(parents=True)
    async with serving(tmp_path / "data", {"hanzo.xterm": str(lib.parent)}) as own:
        answer = await own.http.get("/api/vm.terminal.html")
        assert answer.status_code == 412 and "node-xterm" in answer.json()["error"]["message"]
        for name in ("public/Terminal.js", "xterm.css", "addons/fit/fit.js", "Buffer.js", "Buffer.test.js"):
            (lib / name).write_text(f"/* {name} */")
        for name, kind, text in (
            ("vm.terminal.html", "text/html", "/api/vm.terminal.js"),
            ("vm.terminal.js", "text/javascript", "/api/vm.terminal?"),
            ("vm.xterm.js", "text/javascript", '"Buffer": function (require, module, exports) {\n/* Buffer.js */'),
            ("vm.xterm.css", "text/css", "xterm.css"),
        ):
            answer = await own.http.get(f"/api/{name}", headers={"Authorization": ""})
            assert answer.status_code == 200 and text in answer.text
            assert answer.headers["content-type"].startswith(kind)
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert (await own.http.post(f"/api/{name}")).status_code == 405
            assert "test.js" not in answer.text
