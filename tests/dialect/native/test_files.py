"""Files, archives and logs of a guest over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from dialect.served import Served, fresh
from polyvisor.model.ids import InstanceId

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vm(served: Served) -> str:
    """The path of a ready instance."""
    return f"/api/v1/instances/{(await served.make())['id']}"


async def test_a_file_comes_back_as_it_was_written(http: httpx.AsyncClient, vm: str) -> None:
    data = bytes(range(256)) * 2000

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 60_000):
            yield data[start : start + 60_000]

    params = {"path": "/tmp/ä b", "mode": "0600"}
    assert (await http.put(f"{vm}/files", params=params, content=pieces())).status_code == 204
    assert (await http.get(f"{vm}/files", params=params)).content == data
    stat = (await http.get(f"{vm}/stat", params=params)).json()
    assert (stat["exists"], stat["kind"], stat["size"]) == (True, "file", len(data))


async def test_an_empty_file_is_a_file(http: httpx.AsyncClient, vm: str) -> None:
    assert (await http.put(f"{vm}/files", params={"path": "/tmp/empty"})).status_code == 204
    answer = await http.get(f"{vm}/files", params={"path": "/tmp/empty"})
    assert (answer.status_code, answer.content) == (200, b"")


async def test_what_is_not_there_is_said(http: httpx.AsyncClient, vm: str) -> None:
    assert (await http.get(f"{vm}/stat", params={"path": "/no"})).json()["exists"] is False
    for what in ("files", "archive"):
        missing = await http.get(f"{vm}/{what}", params={"path": "/no"})
        assert (missing.status_code, missing.json()["field"]) == (404, "path")
    await http.put(f"{vm}/files", params={"path": "/dir/file"}, content=b"x")
    folder = await http.get(f"{vm}/files", params={"path": "/dir"})
    assert (folder.status_code, folder.json()["field"]) == (422, "path")


@pytest.mark.parametrize("path", ["", "relative", "/a\0b", "/" + "x" * 5000])
@pytest.mark.parametrize(
    "route", [("GET", "files"), ("PUT", "files"), ("GET", "stat"), ("GET", "archive"), ("PUT", "archive")]
)
async def test_a_path_must_be_one(http: httpx.AsyncClient, vm: str, path: str, route: tuple[str, str]) -> None:
    method, what = route
    answer = await http.request(method, f"{vm}/{what}", params={"path": path})
    assert (answer.status_code, answer.json()["field"]) == (422, "path")


@pytest.mark.parametrize("mode", ["", "8", "0x1ff", "77777", "-1", "rw"])
async def test_a_mode_must_be_octal(http: httpx.AsyncClient, vm: str, mode: str) -> None:
    answer = await http.put(f"{vm}/files", params={"path": "/x", "mode": mode}, content=b"")
    assert (answer.status_code, answer.json()["field"]) == (422, "mode")


async def test_archives_go_both_ways(http: httpx.AsyncClient, vm: str) -> None:
    sent = io.BytesIO()
    with tarfile.open(fileobj=sent, mode="w") as archive:
        member = tarfile.TarInfo("d/f")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"hi"))
    assert (await http.put(f"{vm}/archive", params={"path": "/in"}, content=sent.getvalue())).status_code == 204
    got = await http.get(f"{vm}/archive", params={"path": "/in/d"})
    with tarfile.open(fileobj=io.BytesIO(got.content)) as archive:
        assert archive.getnames() == ["d/f"]
    broken = await http.put(f"{vm}/archive", params={"path": "/in"}, content=b"no tar" * 200)
    assert (broken.status_code, broken.json()["kind"]) == (422, "Invalid")


async def test_a_stopped_instance_has_no_files(served: Served, http: httpx.AsyncClient) -> None:
    stopped = await served.make(power="off")
    answer = await http.get(f"/api/v1/instances/{stopped['id']}/files", params={"path": "/x"})
    assert (answer.status_code, answer.json()["kind"]) == (409, "WrongState")


def _read(text: str) -> list[tuple[str, bytes, int | None]]:
    records = [json.loads(line) for line in text.splitlines()]
    return [(r["stream"], base64.b64decode(r["data"]), r.get("code")) for r in records]


async def test_a_workloads_output_is_kept_and_followed_to_its_end(served: Served, http: httpx.AsyncClient) -> None:
    body = {"image": "busybox", "name": fresh("job"), "command": ["sh", "-c", "echo a; echo b >&2; sleep 0.1; exit 5"]}
    job = (await http.post("/api/v1/instances", json=body)).json()
    path = f"/api/v1/instances/{job['id']}"
    followed = _read((await http.get(f"{path}/logs", params={"follow": True})).text)
    assert followed == [("start", b"", None), ("stdout", b"a\n", None), ("stderr", b"b\n", None), ("exit", b"", 5)]
    assert _read((await http.get(f"{path}/logs")).text) == followed
    assert _read((await http.get(f"{path}/logs", params={"tail": 2})).text) == followed[-2:]
    assert _read((await http.get(f"{path}/logs", params={"tail": 0})).text) == []
    ended = (await http.get(f"{path}/wait")).json()
    assert (ended["state"], ended["exit"]) == ("stopped", {"code": 5, "signal": None, "reason": "exited"})


async def test_a_tail_is_followed_by_what_comes(served: Served, http: httpx.AsyncClient) -> None:
    body = {"image": "busybox", "command": ["sh", "-c", "echo old; cat"], "name": fresh("job")}
    job = (await http.post("/api/v1/instances", json=body, params={"wait": "ready"})).json()
    async with http.stream("GET", f"/api/v1/instances/{job['id']}/logs", params={"follow": True, "tail": 1}) as answer:
        lines = answer.aiter_lines()
        assert _read(await anext(lines))[0][:2] == ("stdout", b"old\n")
        await http.post(f"/api/v1/instances/{job['id']}/stop")
        rest = [_read(line)[0] async for line in lines]
    assert [stream for stream, _, _ in rest] == ["exit"]


async def test_the_hypervisors_log_is_its_end(served: Served, http: httpx.AsyncClient, vm: str) -> None:
    assert (await http.get(f"{vm}/vmm-log")).text == ""
    log: Path = served.parts.host.log_file(InstanceId(vm.rsplit("/", 1)[-1]))
    await asyncio.to_thread(log.write_bytes, b"x" * 100_000 + b"\xffend")
    text = (await http.get(f"{vm}/vmm-log")).text
    assert text.endswith("\N{REPLACEMENT CHARACTER}end")
    assert len(text) == 64 * 1024
