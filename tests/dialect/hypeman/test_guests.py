"""Into a guest: commands, files, logs, paths."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman
from hypeman.lib import CopyProtocolError, cp_from_instance_async, cp_to_instance_async, exec_async
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from dialect.hypeman.making import IMAGE, make
from dialect.served import Served, fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")


def socket(served: Served, path: str) -> Any:
    """A raw WebSocket."""
    headers = {"Authorization": f"Bearer {served.key}"}
    return connect(served.url.replace("http", "ws") + path, additional_headers=headers)


async def said(raw: ClientConnection) -> list[str | bytes]:
    """Everything until the other side closes."""
    return [message async for message in raw]


async def test_the_last_frame_of_exec_is_the_contracts(served: Served, sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    async with socket(served, f"/instances/{made.id}/exec") as raw:
        await raw.send('{"command":["sh","-c","echo hi; exit 3"],"tty":false}')
        heard = await said(raw)
    assert (b"".join(m for m in heard if isinstance(m, bytes)), heard[-1]) == (b"hi\n", '{"exitCode":3}')
    assert raw.close_code == 1000


async def test_commands_by_the_sdk(sdk: AsyncHypeman) -> None:
    made = await make(sdk, env={"A": "1"})

    async def ran(*argv: str, **more: Any) -> tuple[bytes, int]:
        done = await exec_async(sdk, made.id, list(argv), **more)
        return done.output, done.exit_code

    assert await ran("echo", "both", ">&2") == (b"both\n", 0)
    output, code = await ran("env", env={"B": "2"})
    assert code == 0 and {"A=1", "B=2"} <= set(output.decode().split())
    assert await ran("stty", "size", tty=True, rows=24, cols=80, resize=[(40, 100)]) in (
        (b"40 100\n", 0), (b"24 80\n", 0),
    )  # fmt: skip
    output, _ = await ran("env", tty=True)
    assert b"TERM=xterm-256color" in output
    assert await ran("sleep", "9", timeout=1) == (b"", 124)
    assert (await ran("no-such-command"))[1] == 127


async def test_input_reaches_a_command_and_text_is_input_too(served: Served, sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    async with socket(served, f"/instances/{made.id}/exec") as raw:
        await raw.send('{"command":["cat"],"tty":false}')
        await raw.send(b"one ")
        assert await raw.recv() == b"one "
        await raw.send('{"resize":{"rows":1,"cols":1}}')  # it has no terminal
        assert await raw.recv() == b'{"resize":{"rows":1,"cols":1}}'


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (b"binary", "first message must be JSON text"), ("{", "invalid JSON: "), ("[]", "invalid JSON: "),
        ('{"command":"ls"}', "invalid JSON: command: value must be an array"),
        ('{"timeout":-1}', "invalid JSON: timeout"),
    ],
)  # fmt: skip
async def test_a_bad_first_message_is_told(served: Served, sdk: AsyncHypeman, first: str | bytes, why: str) -> None:
    made = await make(sdk)
    async with socket(served, f"/instances/{made.id}/exec") as raw:
        await raw.send(first)
        (heard,) = await said(raw)
    assert json.loads(heard)["error"].startswith(why)


async def test_exec_and_cp_need_a_running_instance(served: Served, sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    await sdk.instances.stop(made.id)
    for what in ("exec", "cp"):
        with pytest.raises(InvalidStatus) as refused:
            async with socket(served, f"/instances/{made.id}/{what}"):
                pass
        answer = refused.value.response
        assert (answer.status_code, answer.headers["content-type"]) == (409, "text/plain; charset=utf-8")
        text = "instance must be running (current state: Stopped)"
        assert answer.body == b'{"code":"invalid_state","message":"%b"}\n' % text.encode()
        with pytest.raises(InvalidStatus) as refused:
            async with socket(served, f"/instances/nothing/{what}"):
                pass
        assert refused.value.response.status_code == 404


async def test_a_tree_goes_in_and_comes_out(sdk: AsyncHypeman, tmp_path: Path) -> None:
    made = await make(sdk)
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "a.bin").write_bytes(bytes(range(256)) * 2000)
    (tree / "deep" / "empty").write_bytes(b"")
    await cp_to_instance_async(sdk, made.id, tree, "/tmp/tree")
    await cp_from_instance_async(sdk, made.id, "/tmp/tree", tmp_path / "back")
    assert (tmp_path / "back/tree/a.bin").read_bytes() == (tree / "a.bin").read_bytes()
    assert (tmp_path / "back/tree/deep/empty").read_bytes() == b""
    await cp_from_instance_async(sdk, made.id, "/tmp/tree/a.bin", tmp_path / "one")
    assert (tmp_path / "one/a.bin").stat().st_size == 512_000
    with pytest.raises(CopyProtocolError, match="no such file"):
        await cp_from_instance_async(sdk, made.id, "/nope", tmp_path / "none")


@pytest.mark.parametrize(
    "first",
    [
        b"x", "{", "{}", '{"direction":"up","guest_path":"/x"}', '{"direction":"to","guest_path":"../x"}',
        '{"direction":"from","guest_path":"relative"}', '{"direction":"to","guest_path":"/x","mode":99999}',
        '{"direction":"to","guest_path":"/x\\u0000"}',
    ],
)  # fmt: skip
async def test_a_copy_that_is_none_is_told(served: Served, sdk: AsyncHypeman, first: str | bytes) -> None:
    made = await make(sdk)
    async with socket(served, f"/instances/{made.id}/cp") as raw:
        await raw.send(first)
        (heard,) = await said(raw)
    assert json.loads(heard)["type"] == "error"


async def test_what_is_said_after_a_copy(served: Served, sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    for data, answer in ((b"abc", '{"bytes_written":3,"success":true,"type":"result"}'), (b"", None)):
        async with socket(served, f"/instances/{made.id}/cp") as raw:
            await raw.send('{"direction":"to","guest_path":"/tmp/x"}')
            await raw.send(data)
            await raw.send('{"type":"end"}')
            assert await said(raw) == [answer or '{"success":true,"type":"result"}']


async def test_paths(sdk: AsyncHypeman, tmp_path: Path) -> None:
    made = await make(sdk)
    (tmp_path / "f").write_bytes(b"12345")
    await cp_to_instance_async(sdk, made.id, tmp_path / "f", "/tmp/f")
    found = await sdk.instances.stat(made.id, path="/tmp/f")
    assert (found.exists, found.is_file, found.is_dir, found.size, found.link_target) == (True, True, False, 5, "")
    assert (await sdk.instances.stat(made.id, path="/tmp")).is_dir is True
    absent = await sdk.instances.stat(made.id, path="/nope")
    assert (absent.exists, absent.error) == (False, None)


async def test_what_it_takes(sdk: AsyncHypeman) -> None:
    made = await make(sdk, size="512MB", hotplug_size="1GB")
    assert (made.size, made.hotplug_size) == ("512.0 MB", "1024.0 MB")
    stats = await sdk.instances.stats(made.id)
    assert (stats.allocated_memory_bytes, stats.allocated_vcpus) == (1536 * 1024**2, 2)
    await sdk.instances.stop(made.id)
    stopped = await sdk.instances.stats(made.id)
    assert (stopped.memory_rss_bytes, stopped.cpu_seconds, stopped.network_rx_bytes) == (0, 0, 0)


async def lines(sdk: AsyncHypeman, id: str, **which: Any) -> list[str]:
    return [line async for line in await sdk.instances.logs(id, **which)]


async def test_logs(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk, cmd=["sh", "-c", "echo one; echo two '\"quoted\"'; echo three; sleep 3600"])
    for _ in range(100):
        if len(await lines(sdk, made.id)) == 3:
            break
        await asyncio.sleep(0.05)
    assert await lines(sdk, made.id) == ["one", 'two "quoted"', "three"]
    assert await lines(sdk, made.id, tail=1) == ["three"]
    assert await lines(sdk, made.id, tail=0) == []
    raw = await http.get(f"/instances/{made.id}/logs?tail=2")
    assert raw.content == b'data: "two \\"quoted\\""\n\ndata: "three"\n\n'
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert (raw.headers["cache-control"], raw.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert await lines(sdk, made.id, source="vmm") == []
    spoken = await lines(sdk, made.id, source="hypeman", tail=2)
    assert [line.split(" ", 1)[1] for line in spoken] == ["create asked", "create done"]


async def test_a_log_that_is_followed_ends_with_its_instance(sdk: AsyncHypeman) -> None:
    made = await make(sdk, cmd=["sh", "-c", "echo one; sleep 0.4; echo two"])
    assert await lines(sdk, made.id, follow=True) == ["one", "two"]
    made = await make(sdk)
    spoken = asyncio.create_task(lines(sdk, made.id, source="hypeman", follow=True, tail=0))
    await asyncio.sleep(0.2)
    await sdk.instances.delete(made.id)
    async with asyncio.timeout(10):
        assert any("instance.deleted" in line for line in await spoken)


async def test_one_that_never_ran_has_no_log(served: Served, http: httpx.AsyncClient) -> None:
    made = await served.make(power="off")
    answer = await http.get(f"/instances/{made['id']}/logs")
    assert (answer.status_code, answer.json()) == (
        404, {"code": "log_not_found", "message": "requested log file does not exist yet"},
    )  # fmt: skip
    assert (await http.get(f"/instances/{made['id']}/logs?source=hypeman")).status_code == 200


async def test_waits(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk)
    waited = await sdk.instances.wait(made.id, state="Stopped", api_timeout="100ms")
    assert (waited.state, waited.timed_out) == ("Running", True)
    await sdk.instances.stop(made.id)
    waited = await sdk.instances.wait(made.id, state="Running", api_timeout="20s")
    assert (waited.state, waited.timed_out) == ("Stopped", False)
    gone = asyncio.create_task(http.get(f"/instances/{made.id}/wait?state=Running&timeout=20s"))
    assert (await gone).status_code == 200
    await sdk.instances.start(made.id)
    waiting = asyncio.create_task(http.get(f"/instances/{made.id}/wait?state=Paused&timeout=20s"))
    await asyncio.sleep(0.2)
    await sdk.instances.delete(made.id, graceful_shutdown=False)
    answer = await waiting
    assert (answer.status_code, answer.json()["message"]) == (404, "instance was deleted while waiting")


async def test_what_another_dialect_made_is_seen_here(served: Served, sdk: AsyncHypeman) -> None:
    made = await served.make(labels={"team": "y"}, env={"SECRET": "x"}, command=["sleep", "3600"])
    found = await sdk.instances.get(made["id"])
    assert (found.state, found.image, found.tags, found.env) == ("Running", "busybox", {"team": "y"}, None)
    assert (found.size, found.vcpus, found.hotplug_size) == ("256.0 MB", 1, "0 B")
    name = fresh("both")
    ours = await sdk.instances.create(name=name, image=IMAGE, tags={"team": "z"})
    native = (await served.http.get(f"/api/v1/instances/{name}")).json()
    assert (native["id"], native["labels"]) == (ours.id, {"team": "z"})


async def test_a_client_that_speaks_all_before_it_listens_is_heard(served: Served, sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    much = b"0123456789abcdef" * 2048  # 32 KiB
    async with socket(served, f"/instances/{made.id}/exec") as raw:
        await raw.send('{"command":["cat"],"tty":false}')
        for _ in range(400):
            await raw.send(much)  # 12.5 MiB, more than any buffer on the way holds
        heard = 0
        while heard < 400 * len(much):
            message = await raw.recv()
            assert isinstance(message, bytes) and len(message) <= 32 * 1024
            heard += len(message)


async def test_input_that_nobody_wants_does_not_keep_the_answer_back(sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    done = await exec_async(sdk, made.id, ["true"], stdin=[b"x" * 32768] * 300)
    assert (done.output, done.exit_code) == (b"", 0)


async def test_sockets_asked_by_plain_http_say_what_is_missing(http: httpx.AsyncClient, sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    for name in ("exec", "cp"):
        path = f"/instances/{made.id}/{name}"
        plain = await http.get(path)
        assert (plain.status_code, plain.headers["content-type"]) == (400, "text/plain; charset=utf-8")
        assert plain.json()["code"] == "bad_request" and "Upgrade" in plain.json()["message"]
        assert plain.content.endswith(b"}\n")
        assert (await http.get(f"/instances/nothing/{name}")).status_code == 404
        assert (await http.get(path, headers={"Authorization": ""})).status_code == 401
        wrong = await http.post(path)
        assert (wrong.status_code, wrong.headers["allow"], wrong.content) == (405, "GET", b"")
    await sdk.instances.stop(made.id)
    assert (await http.get(f"/instances/{made.id}/exec")).json()["code"] == "invalid_state"
