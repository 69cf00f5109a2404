"""`instavm deploy` of a project with a `requirements.txt`, from an index in a world of the test's, into the image to
run code in; and who comes in there by SSH (instavm.md §5.28)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from real.conftest import finish, share
from real.namespaces import WORLD_NAME, Namespace, ground
from real.test_instavm import Home, client
from real.test_ssh import Way, terminal_of
from serving import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.bridge,
    pytest.mark.lengthy,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("trusting"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
NAME = "little-1.0-py3-none-any.whl"
MANIFEST = f"""
schema_version: 1
slug: needy
title: Needy
version: "1.0"
summary: needs a package
category: test
runtime: python
deploy: {{kind: upload_and_run}}
source: {{include: ["*.py", "requirements.txt"], setup_command: "pip install -r requirements.txt"}}
vm: {{memory_mb: 512, vcpu_count: 1, timeout_seconds: 3600}}
run: {{workdir: ".", start_command: "exec python app.py"}}
app: {{port: 8000, healthcheck_path: /, share_public_default: true, readiness_timeout_seconds: 240}}
egress: {{mode: allowlist, allowed_domains: ["{WORLD_NAME}"], allow_package_managers: false}}
env: {{}}
secrets: []
post_deploy_notes: []
"""
APP = """
import http.server, little, os, socketserver


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{little.SIZE} {little.__file__} {os.getcwd()} {os.getuid()}".encode())


socketserver.TCPServer(("", 8000), Hello).serve_forever()
"""


def wheel() -> bytes:
    """A package of one module."""
    data, info = io.BytesIO(), "little-1.0.dist-info"
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("little.py", "SIZE = 'little'\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: little\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"little.py,,\n{info}/RECORD,,\n")
    return data.getvalue()


@contextmanager
def index(space: Namespace) -> Iterator[tuple[int, list[str]]]:
    """An index with that package at every address of the namespace: its port, and what it was asked."""
    data, asked = wheel(), list[str]()
    page = f'<a href="/{NAME}#sha256={hashlib.sha256(data).hexdigest()}">{NAME}</a>'.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            known = {"/simple/little/": ("text/html", page), f"/{NAME}": ("application/zip", data)}
            kind, body = known.get(self.path, ("text/plain", b""))
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with space.inside():
        server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.1], daemon=True)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_project_with_requirements(base: Server, standard: str, tmp_path: Path) -> None:
    for what in ("boot", "images"):
        share(base.data, tmp_path / "data", what)
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(ground())
        port, asked = stack.enter_context(index(made.world))
        stack.enter_context(made.host.inside())
        server = Server(tmp_path / "data", "--ssh-listen", "127.0.0.1:0", prefix=made.host.prefix).start()
        try:
            home = Home.of(server, tmp_path)
            project = tmp_path / "needy"
            project.mkdir()
            (project / "app.py").write_text(APP)
            (project / "instavm.yaml").write_text(MANIFEST)
            needs = f"--index-url http://{WORLD_NAME}:{port}/simple/\n--trusted-host {WORLD_NAME}\nlittle==1.0\n"
            (project / "requirements.txt").write_text(needs)
            told = home.deploy(project)
            assert "Successfully installed little-1.0" in told
            done = json.loads(told[told.index("\n{") :])  # after what the setup has said
            assert asked == ["/simple/little/", f"/{NAME}"]
            said = _said(done["share_url"]).split()
            assert said[0] == "little" and said[1].startswith("/home/appuser/.local/")
            assert said[2:] == ["/home/appuser/.instavm-cookbooks/needy", "1000"]
            port_of_ssh = server.facts["ssh"].rpartition(":")[2]
            (tmp_path / "key").symlink_to(tmp_path / ".ssh" / "id_ed25519")
            comes_in(Way(done["vm_id"], tmp_path, port_of_ssh))
            sdk = client(server, auto_start_session=False)
            sdk.set_vm_egress(done["vm_id"], allow_http=False, allow_https=False, allow_package_managers=False)
            again = ("pip", "download", "--no-cache-dir", "--retries", "0", "-r", f"{said[2]}/requirements.txt")
            way = Way(done["vm_id"], tmp_path, port_of_ssh)
            assert way.ssh(" ".join(again))[0] != 0 and len(asked) == 2
            assert _said(done["share_url"]).startswith("little ")  # what comes in is not its business
            home.instavm("rm", done["vm_id"])
        finally:
            finish(server)


def _said(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def comes_in(way: Way) -> None:
    """As `appuser`, with a home, a terminal, files of his own, and `sudo`."""
    assert way.ssh("true") == (0, b"", b"")
    words = "id -un; id -Gn; pwd; echo $HOME $USER $LOGNAME; sudo -n id -u; exit 4"
    assert way.ssh(words) == (4, b"appuser\nappuser\n/home/appuser\n/home/appuser appuser appuser\n0\n", b"")
    asyncio.run(terminal_of(way, b"id -un\n", b"appuser"))
    data = os.urandom(300_000)
    (way.folder / "sent").write_bytes(data)
    (way.folder / "sent").chmod(0o640)
    assert way.run("scp", "-O", "-pq", str(way.folder / "sent"), way.at("old"), port="-P") == (0, b"", b"")
    script = f"mkdir folder\nput {way.folder}/sent folder/new\nget old {way.folder}/got\npwd\n"
    code, out, err = way.run("sftp", "-q", "-b", "-", f"{way.vm}@127.0.0.1", stdin=script.encode(), port="-P")
    assert code == 0 and b"/home/appuser" in out, (out, err)
    assert (way.folder / "got").read_bytes() == data
    listed = way.ssh("stat -c '%U:%G %a %n' old folder folder/new; cmp old folder/new && rm -r old folder")
    assert listed[1].decode().splitlines()[0] == "appuser:appuser 640 old", listed
    assert [line.split()[0] for line in listed[1].decode().splitlines()] == ["appuser:appuser"] * 3
    assert way.run("scp", "-O", "-q", way.at("/etc/hostname"), str(way.folder / "name"), port="-P")[0] == 0
