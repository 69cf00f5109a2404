"""Credentials that a guest uses and never sees: a guest's own TLS, and a host in a world of the test's that sees the
value, while nothing in the guest, its disk or its memory does (instavm.md §1.12, check 27)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from instavm import InstaVM

from real.conftest import finish, share
from real.guests import make_boot_files
from real.namespaces import OTHER_NAME, WORLD_NAME, Ground, Namespace, ground
from real.pythons import python_on
from serving import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.bridge,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("trusting"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
ASK = """
import hashlib, http.client, json, os, ssl
def ask(host, path="/", verify=True):
    context = ssl.create_default_context() if verify else ssl._create_unverified_context()
    link = http.client.HTTPSConnection(host, timeout=60, context=context)
    link.connect()
    cert = hashlib.sha256(link.sock.getpeercert(True)).hexdigest()
    link.request("GET", path, headers={"Authorization": "Bearer " + os.environ.get("API_KEY", "nothing")})
    answer = link.getresponse()
    print(json.dumps([answer.status, answer.read().decode(), cert]))
    link.close()
"""


@dataclass
class Upstream:
    """An HTTPS host of the world, and what it was asked: path and what it was shown."""

    authority: Path
    certificate: str
    seen: list[tuple[str, str | None]] = field(default_factory=list)


def certified(folder: Path) -> tuple[Path, Path, str]:
    """An authority's file, a host's certificate with its key, and a hash of that."""
    now = datetime.now(UTC)

    def signed(name: str, key: Any, issuer: str, by: Any, *, ca: bool) -> x509.Certificate:
        said, who = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer))
        names = x509.SubjectAlternativeName([x509.DNSName(one) for one in (WORLD_NAME, OTHER_NAME)])
        return (
            x509.CertificateBuilder().subject_name(said).issuer_name(who).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1)).add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True).sign(by, hashes.SHA256())
        )  # fmt: skip

    authority, host = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root, leaf = (
        signed("test", authority, "test", authority, ca=True),
        signed("host", host, "test", authority, ca=False),
    )
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(root.public_bytes(pem))
    key = host.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "host.pem").write_bytes(key + leaf.public_bytes(pem))
    der = leaf.public_bytes(serialization.Encoding.DER)
    return folder / "authority.pem", folder / "host.pem", hashlib.sha256(der).hexdigest()


@contextlib.contextmanager
def upstream(space: Namespace, folder: Path) -> Iterator[Upstream]:
    """The host, at every address of that namespace."""
    authority, certificate, digest = certified(folder)
    made = Upstream(authority, digest)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.seen.append((self.path, self.headers["Authorization"]))
            body = f"you asked for {self.path}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with space.inside():
        server = ThreadingHTTPServer(("0.0.0.0", 443), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = socket.create_server(("0.0.0.0", 443))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=[0.1], daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextlib.contextmanager
def served(base: Server, folder: Path, made: Ground, authority: Path, mode: str) -> Iterator[Server]:
    """A server in that mode whose sandboxes have Python."""
    make_boot_files(base)
    share(base.data, folder / "data")
    settings = folder / "settings.toml"
    words = f'[network]\nmode = "{mode}"\nvaults_ca = "{authority}"\n[instavm]\nimage = "busybox"\n'
    settings.write_text(words)
    with made.host.inside():
        server = Server(folder / "data", "--config", str(settings), prefix=made.host.prefix).start()
        try:
            with python_on(server, folder) as name:
                server.stop()
                settings.write_text(words.replace('"busybox"', json.dumps(name)))
                server.start()
                yield server
                if server.process is None:
                    server.start()
                server.cli("rm", "--all", "--force", check=True)
        finally:
            finish(server)


def said(sdk: InstaVM, code: str) -> list[Any]:
    """What the guest's Python prints, which is JSON."""
    ran = sdk.execute(ASK + code, timeout=200)
    assert ran["exit_code"] == 0, ran
    found: list[Any] = json.loads(ran["stdout"])
    return found


def files_with(folder: Path, word: bytes) -> list[Path]:
    """The files below it that hold the word."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            tail = b""
            with path.open("rb") as file:
                while data := file.read(1 << 22):
                    if word in tail + data:
                        found.append(path)
                        break
                    tail = data[-len(word) :]
    return found


@pytest.mark.parametrize("mode", ["user", pytest.param("bridge", marks=pytest.mark.lengthy)])
def test_a_guest_uses_what_it_never_sees(base: Server, tmp_path: Path, mode: str) -> None:
    first, second = (f"sk-{uuid.uuid4().hex}" for _ in range(2))
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(ground())
        world = stack.enter_context(upstream(made.world, tmp_path))
        server = stack.enter_context(served(base, tmp_path, made, world.authority, mode))
        sdk = InstaVM(server.facts["api_key"], base_url=server.facts["url"])
        vault = sdk.create_vault("of the test")["id"]
        credential = sdk.add_vault_credential(vault, name="API_KEY", value=first)["id"]
        sdk.add_vault_service(vault, host=WORLD_NAME, auth_config={"type": "bearer", "token": "API_KEY"})
        vm = sdk._request_json("POST", "/v1/vms", json_data={"vault_ids": [vault], "memory_mb": 192, "vcpu_count": 1})
        sdk.session_id = vm["session_id"]

        status, body, shown = said(sdk, f"ask({WORLD_NAME!r}, '/v1/things?a=b')")
        assert (status, body) == (200, "you asked for /v1/things?a=b")
        assert world.seen == [("/v1/things?a=b", f"Bearer {first}")] and shown != world.certificate
        assert said(sdk, f"ask({OTHER_NAME!r}, verify=False)")[2] == world.certificate  # not opened up
        assert world.seen.pop() == ("/", "Bearer API_KEY")
        logs = sdk.get_vault_request_logs(vault)
        assert [(one["host"], one["status"], one["credential_name"]) for one in logs] == [(WORLD_NAME, 200, "API_KEY")]

        if mode == "user":
            sleeps_without(sdk, vm["vm_id"], server, first)
        sdk.rotate_vault_credential(vault, credential, value=second)
        assert said(sdk, f"ask({WORLD_NAME!r})")[0] == 200
        assert world.seen.pop() == ("/", f"Bearer {second}")
        server.kill()
        server.start()
        sdk.base_url = server.facts["url"]
        assert said(sdk, f"ask({WORLD_NAME!r})")[0] == 200
        assert world.seen.pop() == ("/", f"Bearer {second}")
        sdk.set_vm_egress(vm["vm_id"], allow_http=False, allow_https=False, allowed_domains=[OTHER_NAME])
        closed = sdk.execute(ASK + f"ask({WORLD_NAME!r})", timeout=200)
        assert closed["exit_code"] != 0 and len(world.seen) == 1, closed
        sdk.set_vm_egress(vm["vm_id"])

        sdk._request_json("PATCH", f"/v1/vms/{vm['vm_id']}", json_data={"vault_ids": []})
        assert said(sdk, f"ask({WORLD_NAME!r}, verify=False)")[2] == world.certificate
        assert world.seen.pop() == ("/", "Bearer nothing")
        sdk.vms.delete(vm["vm_id"])


def sleeps_without(sdk: InstaVM, vm: str, server: Server, value: str) -> None:
    """What the guest knows of itself, its disk and its memory, which are saved meanwhile, hold the name alone."""
    words = sdk.execute("env; cat /proc/*/cmdline /proc/*/environ | tr '\\0' '\\n'", language="bash")["stdout"]
    assert "API_KEY=API_KEY" in words and value not in words
    sdk.vms.suspend(vm)
    wait_for(sdk, vm, "suspended")
    for _ in range(600):  # it is the guest's memory that is looked through, and that is on its way to the disk still
        if files_with(server.data / "memory", b"API_KEY"):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the memory is not on the disk")
    assert files_with(server.data, value.encode()) == [] and value.encode() not in server.log.read_bytes()
    sdk.vms.resume(vm)


def wait_for(sdk: InstaVM, vm: str, word: str) -> None:
    """Its status is that."""
    for _ in range(600):
        if sdk._request_json("GET", f"/v1/vms/{vm}")["status"] == word:
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"{vm} is not {word}")
