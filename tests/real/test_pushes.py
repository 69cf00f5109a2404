"""Images of this host in another registry, and made into guests from there."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx

from polyvisor.client import Client
from real.guests import Guests, sh
from real.test_image_sources import tenant
from serving import Server


def asking(base: Server, key: str | None = None) -> httpx.Client:
    """A client of the Hypeman routes."""
    headers = {"Authorization": f"Bearer {key or base.facts['api_key']}"}
    return httpx.Client(base_url=base.facts["url"], headers=headers, trust_env=False, timeout=60)


async def pushed(base: Server, **body: Any) -> dict[str, Any]:
    """A push at its end."""
    with asking(base) as http:
        made = http.post("/pushes", json=body)
        assert made.status_code == 202, made.text
        async with asyncio.timeout(120):
            while (found := http.get(made.headers["location"]).json())["status"] in ("queued", "pushing"):
                await asyncio.sleep(0.1)
    return dict(found)


def manifest_of(name: str) -> bytes:
    """As the registry has it."""
    argv = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"]
    return subprocess.run(argv, capture_output=True, check=True).stdout


async def test_an_image_goes_out_and_comes_back_the_same(
    base: Server, client: Client, guests: Guests, registry: str
) -> None:
    await guests.boot("busybox", memory="128M")
    target = f"{registry}/out/busybox:v1"
    done = await pushed(base, image="busybox", target=target)
    assert (done["status"], done["error"], done["layers"]) == ("pushed", None, 1)
    raw = await asyncio.to_thread(manifest_of, target)
    manifest = json.loads(raw)
    assert manifest["layers"][0]["size"] == done["bytes"]
    # The same image makes the same bytes.
    again = await pushed(base, image="docker.io/library/busybox", target=f"{registry}/out/busybox:v2", insecure=True)
    assert again["bytes"] == done["bytes"]
    assert await asyncio.to_thread(manifest_of, f"{registry}/out/busybox:v2") == raw
    vm = await guests.boot(target, memory="128M")
    assert await sh(client, vm.id, "ls -ld /tmp /root /bin/busybox; id; cat /etc/passwd") == await sh(
        client, (await guests.boot("busybox", memory="128M")).id, "ls -ld /tmp /root /bin/busybox; id; cat /etc/passwd"
    )
    assert list((base.data / "images").glob(".work*")) == []


@contextmanager
def gatekeeper() -> Iterator[tuple[str, list[str]]]:
    """A registry that wants a login and takes nothing; what it was sent as one."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="here"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_a_login_is_borrowed_and_kept_nowhere(base: Server, guests: Guests) -> None:
    await guests.boot("busybox", memory="128M")
    login = {"username": "somebody", "password": "pa55-word-of-somebody"}
    with gatekeeper() as (where, seen):
        done = await pushed(base, image="busybox", target=f"{where}/a:1", credentials=login)
    assert (done["status"], done["error"]) == ("failed", f"target: {where}/a:1: its registry wants another login")
    pair = base64.b64encode(b"somebody:pa55-word-of-somebody").decode()
    assert f"Basic {pair}" in seen
    for place in (base.log, base.data / "polyvisor.db", base.data / "polyvisor.db-wal"):
        for secret in (b"pa55-word-of-somebody", pair.encode()):
            assert secret not in place.read_bytes()


async def test_nobody_there_is_a_failure(base: Server, guests: Guests) -> None:
    await guests.boot("busybox", memory="128M")
    done = await pushed(base, image="busybox", target="127.0.0.1:1/a:1")
    assert (done["status"], done["error"]) == ("failed", "target: 127.0.0.1:1/a:1: could not be pushed")


async def test_tenants_push_to_public_places_alone(base: Server, guests: Guests, registry: str) -> None:
    await guests.boot("busybox", memory="128M")
    async with await tenant(base) as stranger:
        key = stranger.headers["X-API-Key"]
    with asking(base, key) as http:
        for target in (f"{registry}/a:1", "localhost/a:1", "10.0.0.1/a:1", "169.254.169.254/a:1"):
            answer = http.post("/pushes", json={"image": "busybox", "target": target})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_target"), answer.text
        answer = http.post("/pushes", json={"image": "busybox", "target": "r.example.com/a:1", "insecure": True})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
