"""What a fetch may reach and what it carries with it: its network, its environment, its logins."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from polyvisor.host.images import fetch, outward
from polyvisor.host.images.gate import run_enclosed
from polyvisor.host.images.local import LocalImages
from polyvisor.host.run import run, use_proxies
from polyvisor.model.faults import Upstream
from polyvisor.model.image import parse_reference
from polyvisor.model.push import Login
from real.archives import entry, oci_layout
from real.registries import push, registry_in

ASK = """
import os, socket, sys
host, _, port = os.environ["HTTPS_PROXY"].removeprefix("http://").partition(":")
with socket.create_connection((host, int(port)), 5) as way:
    way.sendall(b"CONNECT %s HTTP/1.1\\r\\n\\r\\n" % sys.argv[1].encode())
    said = way.recv(4096)
    print(said.split()[1].decode())
    if b" 200 " in said:
        way.sendall(b"over there\\n")
        way.shutdown(socket.SHUT_WR)
        while data := way.recv(4096):
            print(data.decode(), end="")
"""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


async def test_what_is_enclosed_gets_out_by_the_gate_alone() -> None:
    async def judge(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host == "good.example" else []

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]

        async def ask(where: str) -> str:
            return (await run_enclosed([sys.executable, "-c", ASK, where], judge, timeout=20)).out.decode()

        assert await ask(f"good.example:{port}") == "200\nover there\n"
        assert await ask(f"127.0.0.1:{port}") == "403\n"
        assert await ask("nonsense") == "403\n"
        direct = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        done = await run_enclosed([sys.executable, "-c", direct], judge, timeout=20, check=False)
        assert done.code == 1 and b"ConnectionRefusedError" in done.err


async def test_a_walled_fetch_reaches_no_registry_on_loopback(tmp_path: Path, registry: str) -> None:
    push(oci_layout(tmp_path / "layout", [entry("x")]), f"{registry}/walled:1")
    reference = parse_reference(f"{registry}/walled:1")
    assert await fetch.resolve(reference, fetch.Way(tmp_path, "amd64"))
    with pytest.raises(Upstream):
        await fetch.resolve(reference, fetch.Way(tmp_path, "amd64", walled=True))


async def test_a_walled_fetcher_gets_an_image_from_where_it_may(tmp_path: Path) -> None:
    name = "registry.example"
    with registry_in(tmp_path, name) as where:
        push(oci_layout(tmp_path / "layout", [entry("x", b"x")]), f"{where}/app:1")
        port = where.partition(":")[2]
        allowed = [name]

        async def judge(host: str, _: int) -> Sequence[str]:
            return ["127.0.0.1"] if host in allowed else []

        copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-cert-dir", str(tmp_path)]
        copy += [f"docker://{name}:{port}/app:1", f"dir:{tmp_path}/out"]
        own = {"HOME": str(tmp_path)}
        done = await run_enclosed(copy, judge, timeout=60, env=own, check=False)
        assert done.code == 0, done.err
        assert (tmp_path / "out/manifest.json").is_file()
        allowed.clear()
        done = await run_enclosed(copy, judge, timeout=60, env=own, check=False)
        assert done.code == 1 and b"Forbidden" in done.err


async def test_a_walled_push_reaches_no_registry_on_loopback_and_carries_its_login(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images")
    image = await images.build("busybox", lambda text, fraction: None)
    squashfs = await images.path(image.id)
    login = Login("me", "secret")
    with asking() as (where, heard):
        reference = parse_reference(f"{where}/a:1")
        for walled in (False, True):
            work = tmp_path / f"work{walled}"
            work.mkdir()
            with pytest.raises(Upstream):
                await outward.send(
                    image, squashfs, reference, fetch.Way(work, "amd64", walled), plain=True, login=login
                )
            assert ("Basic bWU6c2VjcmV0" in heard) is not walled
            assert not any(b"bWU6c2VjcmV0" in file.read_bytes() for file in work.rglob("*") if file.is_file())
            heard.clear()
    # Behind the wall the login is there as well.
    with outward.login_file("r.example", login) as fd:
        assert fd is not None
        done = await run_enclosed(["cat", f"/proc/self/fd/{fd}"], fds=[fd], timeout=20)
    assert json.loads(done.out) == {"auths": {"r.example": {"auth": "bWU6c2VjcmV0"}}}


class _Asked(BaseHTTPRequestHandler):
    """A registry that wants to know who comes."""

    heard: list[str | None]

    def do_GET(self) -> None:
        self.heard.append(self.headers.get("Authorization"))
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="r"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def asking() -> Iterator[tuple[str, list[str | None]]]:
    """Its address, and what it hears."""
    handler = type("Asked", (_Asked,), {"heard": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", handler.heard  # type: ignore[attr-defined]  # made above
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_nobodys_logins_are_carried_to_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with asking() as (where, heard):
        logins = {"auths": {where: {"auth": "bWU6c2VjcmV0"}}}
        for place in (".docker/config.json", "run/containers/auth.json"):
            (tmp_path / place).parent.mkdir(parents=True)
            (tmp_path / place).write_text(json.dumps(logins))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / ".docker/config.json"))
        images = LocalImages(tmp_path / "images")
        with pytest.raises(Upstream, match="wants a login"):
            await images.pull(f"{where}/a:1", lambda text, fraction: None, trusted=True)
        assert heard and set(heard) <= {None, "Basic Og=="}  # nothing, or the empty name with the empty password


async def test_helpers_see_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYVISOR_STORE__URL", "postgresql://user:secret@db/x")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    use_proxies({"https_proxy": "http://proxy.example:3128"})
    try:
        plain = (await run(["env"], timeout=10)).out.decode().splitlines()
        online = (await run(["env"], timeout=10, online=True, env={"HOME": "/x"})).out.decode().splitlines()
    finally:
        use_proxies({})
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert sorted(plain) == ["HOME=/nonexistent", "LC_ALL=C", path]
    assert sorted(online) == ["HOME=/x", "LC_ALL=C", path, "https_proxy=http://proxy.example:3128"]


@pytest.mark.parametrize("tool", ["mke2fs", "sfdisk", "mkfs.vfat", "nft", "depmod"])
async def test_tools_of_the_system_are_found_by_an_ordinary_user(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    done = await run([tool, "--help"], timeout=10, check=False)
    assert done.code != 127


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_two_rewrites_run_as_two_users_that_cannot_meet(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images")
    told: list[str] = []
    async with images._turn(lambda text, fraction: None) as one, images._turn(lambda text, fraction: None) as two:
        assert one != two and None not in (one, two)
        third = asyncio.create_task(images.import_archive(tmp_path / "none", "a", lambda text, _: told.append(text)))
        await asyncio.wait({third}, timeout=0.01)
        assert told == ["waiting for other images"] and not third.done()
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
