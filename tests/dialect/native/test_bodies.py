"""What is wrong with a request is said by name, whatever it is, and never by a 5xx."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dialect.served import Served, fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")
IMAGE = {"image": "busybox"}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "image"),
    ({"image": 7}, "image"),
    ({"image": ""}, "image"),
    ({"image": "busy\0box"}, "image"),
    ({"image": "\ud800"}, "image"),
    ({"image": "Not An Image"}, "image"),
    ({"image": "a" * 600}, "image"),
    (IMAGE | {"colour": "red"}, "colour"),
    (IMAGE | {"\ud800": 1}, "body"),
    (IMAGE | {"name": ""}, "name"),
    (IMAGE | {"name": "a b"}, "name"),
    (IMAGE | {"name": "x" * 64}, "name"),
    (IMAGE | {"vcpus": 0}, "vcpus"),
    (IMAGE | {"vcpus": "2"}, "vcpus"),
    (IMAGE | {"vcpus": True}, "vcpus"),
    (IMAGE | {"vcpus": 10**30}, "vcpus"),
    (IMAGE | {"memory": 0}, "memory"),
    (IMAGE | {"memory": "0"}, "memory"),
    (IMAGE | {"memory": -1}, "memory"),
    (IMAGE | {"memory": 10**30}, "memory"),
    (IMAGE | {"memory": 1.5}, "memory"),
    (IMAGE | {"memory": "lots"}, "memory"),
    (IMAGE | {"memory": "9" * 32}, "memory"),
    (IMAGE | {"memory": "9" * 5000}, "memory"),
    (IMAGE | {"disk": "9P"}, "disk"),
    (IMAGE | {"disk": [1]}, "disk"),
    (IMAGE | {"grace": float("nan")}, "grace"),
    (IMAGE | {"grace": float("inf")}, "grace"),
    (IMAGE | {"grace": "9" * 30 + "d"}, "grace"),
    (IMAGE | {"grace": -1}, "grace"),
    (IMAGE | {"lifetime": 0}, "lifetime"),
    (IMAGE | {"lifetime": "soon"}, "lifetime"),
    (IMAGE | {"lifetime": 1e300}, "lifetime"),
    (IMAGE | {"shape": "round"}, "shape"),
    (IMAGE | {"shape": "full"}, "shape"),
    (IMAGE | {"firmware": "uefi"}, "firmware"),
    (IMAGE | {"command": "sh"}, "command"),
    (IMAGE | {"command": ["a\0b"]}, "command.0"),
    (IMAGE | {"env": {"A=B": "x"}}, "env.A=B"),
    (IMAGE | {"env": {"1A": "x"}}, "env"),
    (IMAGE | {"env": {"A": 1}}, "env.A"),
    (IMAGE | {"env": {"A": "\0"}}, "env.A"),
    (IMAGE | {"env": ["A=1"]}, "env"),
    (IMAGE | {"cwd": "tmp"}, "cwd"),
    (IMAGE | {"hostname": "-"}, "hostname"),
    (IMAGE | {"hostname": "a\nb"}, "hostname"),
    (IMAGE | {"ports": [{"guest": 0}]}, "ports.0.guest"),
    (IMAGE | {"ports": [{"guest": 80, "protocol": "sctp"}]}, "ports.0.protocol"),
    (IMAGE | {"ports": [{"guest": 80}], "network": False}, "ports"),
    (IMAGE | {"volumes": [{"volume": "v", "path": 3}]}, "volumes.0.path"),
    (IMAGE | {"cloud_init": {"user": "Bob"}}, "cloud_init.user"),
    (IMAGE | {"cloud_init": {"user": "bob"}}, "cloud_init"),
    (IMAGE | {"restart": {"mode": "sometimes"}}, "restart.mode"),
    (IMAGE | {"restart": {"mode": "always", "backoff": float("nan")}}, "restart.backoff"),
    (IMAGE | {"autostart": "yes"}, "autostart"),
    (IMAGE | {"power": "paused"}, "power"),
    (IMAGE | {"labels": {"a=b": "c"}}, "labels.a=b"),
    (IMAGE | {"labels": {"a": "x" * 2000}}, "labels.a"),
    (IMAGE | {"labels": {str(n): "" for n in range(100)}}, "labels"),
]


@pytest.mark.parametrize(("body", "field"), WRONG, ids=lambda value: json.dumps(value)[:50])
async def test_a_wrong_field_is_named(http: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    answer = await http.post(
        "/api/v1/instances", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert (answer.json()["kind"], answer.json()["field"]) == ("Invalid", field)


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff\xfe", b"null", b"[]", b'"x"', b"1", b"[" * 50_000, b'{"image": ' + b"9" * 5000 + b"}"]
)
async def test_a_body_that_is_no_object_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/api/v1/instances", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["kind"]) == (422, "Invalid"), answer.text
    assert answer.json()["field"] in ("body", "image")


async def test_a_form_is_not_json(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/instances", data={"image": "busybox"})
    assert (answer.status_code, answer.json()["field"]) == (422, "body")


async def test_json_that_is_too_large_is_refused_from_its_length_or_as_it_comes(http: httpx.AsyncClient) -> None:
    big = b'{"image": "' + b"a" * 1024 * 1024 + b'"}'

    async def bit_by_bit() -> Any:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    for content in (big, bit_by_bit()):
        answer = await http.post("/api/v1/instances", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["kind"], answer.json()["field"]) == (413, "Invalid", "body")


@pytest.mark.parametrize("path", ["/api/v1/images?name=x.example/y", "/api/v1/instances/x/files?path=/a"])
async def test_an_upload_that_announces_too_much_is_refused(served: Served, path: str) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = (f"PUT {path} HTTP/1.1", f"Host: {host}", f"X-API-Key: {served.key}", f"Content-Length: {2**60}", "", "")
    writer.write("\r\n".join(lines).encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v1/instances/", "/api/v2/x"])
async def test_a_path_that_leads_nowhere_is_a_404_problem(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["kind"]) == (404, "NotFound"), answer.text


async def test_a_method_that_is_not_there_is_a_405_problem(http: httpx.AsyncClient) -> None:
    answer = await http.delete("/api/v1/instances")
    assert (answer.status_code, answer.json()["kind"]) == (405, "Invalid")
    assert "POST" in answer.headers["allow"] or "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("instances?cursor=!", "cursor"), ("instances?cursor=" + "A" * 300, "cursor"),
        ("instances?cursor=%00", "cursor"),
        ("instances?limit=0", "limit"), ("instances?limit=1001", "limit"), ("instances?limit=x", "limit"),
        ("instances?label=x", "label"), ("instances?label==x", "label"), ("instances?label=a%00b=c", "label"),
        ("volumes?cursor=bm90aGluZw", "cursor"), ("events?after=-1", "after"), ("events?after=1" + "0" * 30, "after"),
        ("operations?limit=1e3", "limit"), ("instances/x%00y", "key"), ("instances/" + "x" * 300, "key"),
        ("operations/a%00b", "id"), ("images/a%00b", "name"), ("images/A", "image"),
        ("instances/x/wait?timeout=nan", "timeout"),
        ("instances/x/wait?timeout=inf", "timeout"), ("instances/x/wait?timeout=0", "timeout"),
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(http: httpx.AsyncClient, query: str, field: str) -> None:
    answer = await http.get(f"/api/v1/{query}")
    assert (answer.status_code, answer.json()["kind"], answer.json()["field"]) == (422, "Invalid", field), answer.text


async def test_a_key_that_could_be_a_name_but_is_none_is_not_found(http: httpx.AsyncClient) -> None:
    for key in ("nope", "%ED%A0%80", "a" * 24, "..", "%2e%2e%2fetc", "'%20OR%201=1--"):
        answer = await http.get(f"/api/v1/instances/{key}")
        assert answer.status_code in (404, 422), (key, answer.text)
        assert answer.json()["kind"] in ("NotFound", "Invalid")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["image", "name", "vcpus", "memory", "disk", "shape", "command", "entrypoint", "env", "cwd", "user", "hostname",
     "ports", "volumes", "cloud_init", "restart", "grace", "lifetime", "power", "labels", "size", "volume", "path",
     "force", "read_only", "extra"]
)  # fmt: skip
PATHS = (
    ("POST", "/instances"), ("PATCH", "/instances/fuzzed"), ("POST", "/instances/fuzzed/stop"), ("POST", "/volumes"),
    ("POST", "/instances/fuzzed/restart"), ("PUT", "/instances/fuzzed/volumes"), ("PATCH", "/volumes/fuzzed"),
    ("POST", "/images/pull"),
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(names, anything, max_size=4) | anything, path=st.sampled_from(PATHS))
async def test_no_body_makes_the_server_stumble(served: Served, body: Any, path: tuple[str, str]) -> None:
    method, route = path
    text = json.dumps(body).encode(errors="replace")
    headers = {"Content-Type": "application/json", "Idempotency-Key": fresh("fuzz")}
    answer = await served.http.request(method, f"/api/v1{route}", content=text, headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()) == {"kind", "message", "field", "subject"}
