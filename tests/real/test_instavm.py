"""The InstaVM API by upstream's own client and command line, on real machines (instavm.md §5)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from instavm import AuthenticationError, InstaVM
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from real.archives import entry, oci_layout
from real.conftest import finish, share
from real.pythons import python_on
from real.registries import push
from real.test_image_sources import shell
from real.verges import eventually
from serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trusting")]
TINY: dict[str, Any] = {"image_variant": "tiny", "memory_mb": 128, "vcpu_count": 1}
INSTAVM = str(Path(sys.executable).with_name("instavm"))
SPOKEN = (Path("/bin/bash"), Path("/usr/bin/nohup"))  # by `instavm deploy`
MANIFEST = """
schema_version: 1
slug: hello
title: Hello
version: "1.0"
summary: says hello
category: test
runtime: python
deploy: {kind: upload_and_run}
source: {include: ["*.py"], setup_command: "python3 -m compileall -q . && echo ready > set-up"}
vm: {memory_mb: 256, vcpu_count: 1, timeout_seconds: 3600, metadata: {app: hello}}
run: {workdir: ".", start_command: "exec python3 app.py"}
app: {port: 8000, healthcheck_path: /health, share_public_default: true, readiness_timeout_seconds: 120}
env: {GREETING: "it's hello"}
secrets: []
post_deploy_notes: []
"""
APP = """
import http.server, os, socketserver  # which asks nobody for its own name


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write((os.environ["GREETING"] + " " + open("set-up").read() + self.path).encode())


socketserver.TCPServer(("", 8000), Hello).serve_forever()
"""


@pytest.fixture(scope="module")
def server(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose sandboxes are of a small image with Python, or of the tiny one."""
    folder = tmp_path_factory.mktemp("instavm")
    share(base.data, folder / "data")
    settings = folder / "settings.toml"
    settings.write_text(
        '[instavm]\nimage = "python"\n[variants.tiny]\nimage = "busybox"\n[variants.nix-dev]\nimage = "busybox"\n'
    )
    server = Server(folder / "data", "--config", str(settings), "--ssh-listen", "127.0.0.1:0").start()
    with python_on(server, folder, *SPOKEN) as name:
        server.stop()
        settings.write_text(settings.read_text().replace('"python"', json.dumps(name)))
        server.start()
        yield server
        if server.process is None:
            server.start()
        server.cli("rm", "--all", "--force", check=True)
    finish(server)


@pytest.fixture
def sdk(server: Server) -> InstaVM:
    """Upstream's client with a session of its own."""
    return client(server)


def client(server: Server, **more: Any) -> InstaVM:
    """Upstream's client."""
    return InstaVM(server.facts["api_key"], base_url=server.facts["url"], **more)


@pytest.fixture(scope="module")
def box(server: Server) -> tuple[InstaVM, str]:
    """A client and its VM, for what does not mind who was there before."""
    sdk = client(server)
    vm = vm_of(sdk, **TINY | {"memory_mb": 256}, metadata={"k": "v", "n": {"a": 1, "b": 2}})
    return sdk, vm


def vm_of(sdk: InstaVM, **more: Any) -> str:
    """A new VM, which the client's session is from now on."""
    made = sdk._request_json("POST", "/v1/vms", json_data=more)
    assert made["status"] == "active", made
    sdk.session_id = made["session_id"]
    return str(made["vm_id"])


def sh(sdk: InstaVM, script: str, **more: Any) -> str:
    """What a script says that goes well."""
    ran = sdk.execute(script, language="bash", **more)
    assert (ran["stderr"], ran["exit_code"]) == ("", 0), ran
    return str(ran["stdout"])


def test_code_has_a_state_and_a_session_lives_on_after_its_vm(server: Server) -> None:
    sdk = client(server, memory_mb=192, cpu_count=1, env={"GIVEN": "here"})
    first = sdk.execute("print('hi')", timeout=280)
    assert first | {"stdout": "hi\n", "stderr": "", "exit_code": 0} == first
    assert sdk.execute("x = 42")["exit_code"] == 0
    assert sdk.execute("print(x)")["stdout"] == "42\n"
    assert sdk.execute("import os; print(os.environ['GIVEN'])")["stdout"] == "here\n"
    assert sh(sdk, "echo $GIVEN") == "here\n"
    wrong = sdk.execute("print(undefined)")
    assert "NameError" in wrong["stderr"] and wrong["exit_code"] == 1
    assert sdk.execute("exit 3", language="bash")["exit_code"] == 3
    big = sdk.execute("print('é' * 600_000)")["stdout"]
    assert big == "é" * 600_000 + "\n"
    task = sdk.execute_async("sleep 1; echo done", language="bash")["task_id"]
    assert sdk.get_task_result(task)["stdout"] == "done\n"
    session, vm = sdk.session_id, sdk.get_session_status()["vm_id"]
    sdk.kill()
    sdk.session_id = session
    assert sdk.get_session_status()["vm_status"] == "killed"
    again = sdk.execute("print(x)", timeout=280)
    assert "NameError" in again["stderr"]
    assert sdk.get_session_status()["vm_id"] != vm
    sdk.kill()


def test_a_vm_is_suspended_resumed_snapshotted_and_cloned(sdk: InstaVM, tmp_path: Path) -> None:
    vm = vm_of(sdk, **TINY, auto_resume=True, metadata={"k": "v"})
    sh(sdk, "(i=0; while sleep 0.1; do i=$((i+1)); echo $i > /tmp/n; done) >/dev/null 2>&1 & echo kept > /root/file")
    sdk.vms.stage_env(vm, {"TOKEN": "in memory"})
    data = os.urandom(3 << 20)
    (tmp_path / "data").write_bytes(data)
    sdk.upload_file(str(tmp_path / "data"), "/root/data")
    snap = sdk.vms.snapshot(vm, name="a snapshot")
    assert snap["status"] == "ready"
    eventually(lambda: sh(sdk, "cat /tmp/n") > "", 20)
    before = int(sh(sdk, "cat /tmp/n"))
    assert sdk.vms.suspend(vm)["status"] in ("suspending", "suspended")
    eventually(lambda: sdk.vms.get(vm)["status"] == "suspended", 30)
    resumed = sdk.vms.resume(vm)
    assert (resumed["status"], resumed["vm_id"] != vm) == ("active", True)
    assert int(sh(sdk, "cat /tmp/n")) >= before
    assert sh(sdk, "echo $TOKEN") == "in memory\n"
    sdk.vms.suspend(resumed["vm_id"])
    eventually(lambda: sdk.vms.get(vm)["status"] == "suspended", 30)
    assert sh(sdk, "cat /root/file") == "kept\n"  # woken by its use
    copy = sdk.vms.create(snapshot_id=snap["id"], memory_mb=128, vcpu_count=1)
    clone = sdk.vms.clone(vm)
    for other in (copy, clone):
        sdk.session_id = other["session_id"]
        assert sh(sdk, "cat /root/file; ls /tmp; [ -z $TOKEN ]").startswith("kept\n")
        sdk.download_file("/root/data", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == data
        sh(sdk, "echo other > /root/file")
    last = sdk.vms.get(vm)  # each resume has given it another name
    sdk.session_id = last["session_id"]
    assert sh(sdk, "cat /root/file") == "kept\n"
    for one in (vm, copy["vm_id"], clone["vm_id"]):
        assert sdk.vms.delete(one)["status"] == "terminated"
        assert one not in [there["vm_id"] for there in sdk.vms.list()]
    ended = {one["vm_id"]: one["status"] for one in sdk.vms.list_all_records()}
    assert [ended[one["vm_id"]] for one in (last, copy, clone)] == ["terminated"] * 3
    assert not sdk.get_session_status()["vm_alive"]
    sdk.snapshots.delete(snap["id"])


def test_a_snapshot_is_made_of_an_image_of_a_registry(sdk: InstaVM, registry: str, tmp_path: Path) -> None:
    where, name = f"{registry}/instavm/app:1", f"app-{time.time_ns()}"
    push(oci_layout(tmp_path / "layout", shell(entry("in-image", b"here\n")), says={"Env": ["PATH=/bin"]}), where)
    made = sdk.snapshots.create(
        where, name=name, vcpu_count=1, memory_mb=128,
        build_args={"post_build_cmd": "echo $KIND > /built", "envs": {"KIND": "a build"}},
    )  # fmt: skip
    bad = sdk.snapshots.create(f"{registry}/instavm/none:1", vcpu_count=1, memory_mb=128)
    assert (made["status"], bad["status"]) == ("building", "building")
    eventually(lambda: sdk.snapshots.get(made["id"])["status"] != "building", 200)
    ready = sdk.snapshots.get(made["id"])
    assert ready | {"status": "ready", "oci_image": where, "last_error": None, "name": name} == ready
    eventually(lambda: sdk.snapshots.get(bad["id"])["status"] == "failed", 60)
    assert sdk.snapshots.get(bad["id"])["last_error"]
    assert {made["id"], bad["id"]} <= {one["id"] for one in sdk.snapshots.list(snapshot_type="user")}
    assert made["id"] not in {one["id"] for one in sdk.snapshots.list(snapshot_type="system")}
    vm = vm_of(sdk, snapshot_id=made["id"])
    assert sh(sdk, "cat /in-image /built") == "here\na build\n"
    sdk.vms.delete(vm)
    for one in (made, bad):
        sdk.snapshots.delete(one["id"])
    assert not {made["id"], bad["id"]} & {one["id"] for one in sdk.snapshots.list()}


def test_a_volume_outlives_its_vm(sdk: InstaVM, tmp_path: Path) -> None:
    volume = sdk.volumes.create(f"v{time.time_ns()}", 64 << 20)["id"]
    (tmp_path / "a").write_bytes(os.urandom(100_001))
    sdk.volumes.upload_file(volume, str(tmp_path / "a"), "in/a")
    vm = vm_of(sdk, **TINY, volumes=[{"volume_id": volume, "mount_path": "/data"}])
    assert int(sh(sdk, "wc -c < /data/in/a")) == 100_001
    sh(sdk, "cp /data/in/a /data/b; echo old > /data/state")
    point = sdk.volumes.create_checkpoint(volume, name="old")
    sh(sdk, "echo new > /data/state")
    assert {one["path"] for one in sdk.volumes.list_files(volume)} == {"in/a", "b", "state"}  # by the guest
    full = sdk.execute("dd if=/dev/zero of=/data/full bs=1M count=80", language="bash")
    assert "No space left" in full["stderr"]
    sh(sdk, "rm /data/full")
    sdk.vms.delete(vm)
    assert {one["path"] for one in sdk.volumes.list_files(volume)} == {"in/a", "b", "state"}  # by ours
    sdk.volumes.download_file(volume, "b", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    old = {"volume_id": volume, "mount_path": "/old", "mode": "ro", "checkpoint_id": point["id"]}
    vm = vm_of(sdk, **TINY, volumes=[old])
    sdk.vms.mount_volume(vm, volume, "/new")
    assert sh(sdk, "cat /old/state /new/state") == "old\nnew\n"
    assert "Read-only" in sdk.execute("echo x > /old/state", language="bash")["stderr"]
    sdk.vms.unmount_volume(vm, volume, "/new")
    sdk.vms.delete(vm)
    sdk.volumes.delete(volume)


def test_a_share_is_reached_from_outside(box: tuple[InstaVM, str]) -> None:
    sdk, vm = box
    sh(sdk, "mkdir /www; echo hello > /www/index.html; httpd -p 8000 -h /www")
    share = sdk.shares.create(8000, vm_id=vm, is_public=True)
    assert sdk.shares.create(8000, vm_id=vm)["url"] == share["url"]

    def answer(**headers: str) -> int | bytes:
        try:
            with urllib.request.urlopen(urllib.request.Request(share["url"], headers=headers), timeout=30) as got:
                return bytes(got.read())
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    assert answer() == b"hello\n"
    private = sdk.shares.update(share["share_id"], is_public=False)
    assert private["url"] == share["url"]
    assert answer() == 403
    assert answer(**{private["token_header"]: private["token"]}) == b"hello\n"
    sdk.shares.update(share["share_id"], revoke=True)
    assert answer() == 0


# What it is sent it sends back, in frames of its own; that of a text is 0x81.
ECHO = """
import base64, hashlib, socketserver

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        head = {}
        while (line := self.rfile.readline().strip()):
            name, _, value = line.decode().partition(": ")
            head[name.lower()] = value
        key = head["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.wfile.write((
            "HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
            f"Sec-WebSocket-Accept: {accept}\\r\\n\\r\\n").encode())
        while (begin := self.rfile.read(2)) and begin[0] & 15 == 1:
            length = begin[1] & 127
            if length == 126:
                length = int.from_bytes(self.rfile.read(2), "big")
            mask, data = self.rfile.read(4), self.rfile.read(length)
            data = bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))
            size = bytes([length]) if length < 126 else bytes([126]) + length.to_bytes(2, "big")
            self.wfile.write(bytes([0x81]) + size + data)

socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("", 7000), Echo).serve_forever()
"""


async def test_a_websocket_through_a_share(server: Server) -> None:
    sdk = await asyncio.to_thread(client, server, memory_mb=192, cpu_count=1)
    start = f"import subprocess\nsubprocess.Popen(['python3', '-c', {ECHO!r}])"
    ran = await asyncio.to_thread(sdk.execute, start, timeout=280)
    assert (ran["stderr"], ran["exit_code"]) == ("", 0)
    share = await asyncio.to_thread(sdk.shares.create, 7000, is_public=True)

    async def echoed(**headers: str) -> int:
        url = share["url"].replace("http://", "ws://")
        try:
            async with connect(url, proxy=None, additional_headers=headers, open_timeout=60) as socket:
                for word in ("one", "twö" * 5000):
                    await socket.send(word)
                    assert await asyncio.wait_for(socket.recv(), 60) == word
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    async def listening() -> bool:
        return await echoed() == 101

    async with asyncio.timeout(60):
        while not await listening():
            await asyncio.sleep(0.2)
    private = await asyncio.to_thread(sdk.shares.update, share["share_id"], is_public=False)
    token = {private["token_header"]: private["token"]}
    assert private["url"] == share["url"]
    assert (await echoed(), await echoed(**token)) == (403, 101)
    await asyncio.to_thread(sdk.shares.update, share["share_id"], revoke=True)
    with pytest.raises(OSError):
        await echoed(**token)
    await asyncio.to_thread(sdk.kill)


def test_memory_is_taken_and_given_back_while_it_runs(box: tuple[InstaVM, str]) -> None:
    sdk, vm = box

    def free() -> int:
        """MiB that the guest has left."""
        return int(sh(sdk, "awk '/^MemAvailable/ {print $2}' /proc/meminfo")) // 1024

    before = free()
    assert sdk.vms.update(vm, memory_mb=160)["memory_mb"] == 160
    eventually(lambda: before - 110 <= free() <= before - 80, 60)
    with pytest.raises(requests.HTTPError) as caught:
        sdk.vms.update(vm, memory_mb=257)
    assert caught.value.response is not None
    assert caught.value.response.json()["detail"][0]["loc"] == ["body", "memory_mb"]
    assert sdk.vms.get(vm)["memory_mb"] == 160
    assert sdk.vms.update(vm, memory_mb=256)["memory_mb"] == 256
    eventually(lambda: free() > before - 16, 60)


def test_what_is_listed_and_what_is_refused(server: Server, box: tuple[InstaVM, str]) -> None:
    sdk, vm = box
    found = sdk.list_sandboxes(metadata={"k": "v", "n": {"a": 1}}, limit=5)
    assert [(one["vm_id"], one["metadata"]["k"]) for one in found] == [(vm, "v")]
    assert sdk.list_sandboxes(metadata={"k": "w"}) == sdk.list_sandboxes(metadata={"n": {"a": 2}}) == []
    (listed,) = [one for one in sdk.vms.list() if one["vm_id"] == vm]
    assert listed == sdk.vms.get(vm) and listed in sdk.vms.list_all_records()
    with pytest.raises(AuthenticationError):
        InstaVM("instavm_sk_wrong", base_url=server.facts["url"])
    for status, method, path, body in (
        (404, "GET", "/v1/vms/vmid-none-1", None), (422, "POST", "/v1/vms", {"vcpu_count": "x"}),
        (409, "POST", "/v1/vms", {"session_id": sdk.session_id}),
    ):  # fmt: skip
        with pytest.raises(requests.HTTPError) as caught:
            sdk._request_json(method, path, json_data=body)
        assert caught.value.response is not None and caught.value.response.status_code == status


def test_a_lifetime_ends_in_a_snapshot_although_the_server_was_down(server: Server) -> None:
    sdk, name = client(server), f"last-{time.time_ns()}"
    vm = vm_of(sdk, **TINY)
    sh(sdk, "echo precious > /root/file")
    sdk.vms.update(vm, snapshot_on_terminate=True, snapshot_name=name)
    sdk._request_json("PATCH", f"/v1/vms/{vm}", json_data={"vm_lifetime_seconds": 3})
    server.kill()
    time.sleep(4)
    server.start()
    sdk = client(server)
    eventually(lambda: sdk.vms.get(vm)["status"] == "terminated", 60)
    (snap,) = [one for one in sdk.snapshots.list() if one["name"] == name]
    again = vm_of(sdk, snapshot_id=snap["id"])
    assert sh(sdk, "cat /root/file") == "precious\n"
    sdk.vms.delete(again)
    sdk.snapshots.delete(snap["id"])


@dataclass(frozen=True, slots=True)
class Home:
    """Somebody's, with a key, a configuration of ssh that knows the gateway's port, and the `instavm` command."""

    folder: Path
    server: Server

    @classmethod
    def of(cls, server: Server, folder: Path) -> Home:
        """A new one. OpenSSH asks the system where home is, so its clients are told here."""
        (folder / ".ssh").mkdir()
        (folder / "bin").mkdir()
        key = folder / ".ssh" / "id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@home", "-f", str(key)], check=True)
        where, _, port = server.facts["ssh"].rpartition(":")
        lines = [f"Host {where}", f"Port {port}", f"UserKnownHostsFile {folder}/known", "LogLevel ERROR"]
        (folder / ".ssh" / "config").write_text("\n".join(lines) + "\n")
        for program in ("ssh", "scp"):
            script = folder / "bin" / program
            script.write_text(f'#!/bin/sh\nexec {shutil.which(program)} -F {folder}/.ssh/config "$@"\n')
            script.chmod(0o755)
        return cls(folder, server)

    def run(self, *argv: str, code: int = 0, key: str = "") -> str:
        """What a program says there, which ends so."""
        env = {
            "INSTAVM_BASE_URL": self.server.facts["url"], "INSTAVM_API_KEY": key or self.server.facts["api_key"],
            "HOME": str(self.folder), "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
        }  # fmt: skip
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def instavm(self, *words: str, code: int = 0, key: str = "") -> Any:
        """What the command line says."""
        said = self.run(INSTAVM, *words, code=code, key=key)
        return json.loads(said) if "-j" in words and code == 0 else said

    def deploy(self, project: Path) -> str:
        """What is said while a project is deployed, by its setup too; in the end it is JSON."""
        return self.run(INSTAVM, "deploy", str(project), "-y", "-j")


@pytest.fixture
def home(server: Server, tmp_path: Path) -> Home:
    """A new one."""
    return Home.of(server, tmp_path)


def test_the_command_line(home: Home) -> None:
    cli = home.instavm
    assert "SSH Keys (0)" in cli("whoami")
    made = cli("create", "-j", "--memory", "128", "--vcpu", "1", "--image-variant", "nix-dev")
    assert (made["status"], bool(made["session_id"])) == ("active", True)
    assert made["vm_id"] in [one["vm_id"] for one in cli("ls", "-j")["vms"]]
    words = ("exec", "--session", made["session_id"], "--language", "bash", "--cmd")
    ran = cli(*words, "echo out; echo err >&2; exit 3", "-j")
    assert (ran["stdout"], ran["stderr"], ran["exit_code"]) == ("out\n", "err\n", 3)
    assert "is 42" in cli(*words, "echo is $((6 * 7))")
    cli("rm", made["vm_id"])
    assert made["vm_id"] not in [one["vm_id"] for one in cli("ls", "-j")["vms"]]
    gone = [one["status"] for one in cli("ls", "-a", "-j")["vms"] if one["vm_id"] == made["vm_id"]]
    assert gone == ["terminated"]
    cli("rm", "vmid-none", code=1)
    cli("exec", "--session", "none", "--cmd", "1", code=1)
    cli("ls", "-j", code=1, key="instavm_sk_wrong")


def test_an_application_is_deployed(home: Home, server: Server) -> None:
    """By ssh, scp and a share, as `instavm deploy` has it; its VM answers to ssh by its name."""
    sdk, project = client(server), home.folder / "hello"
    for old in sdk.list_ssh_keys():  # of a run that failed
        sdk.delete_ssh_key(old["id"])
    project.mkdir()
    (project / "app.py").write_text(APP)
    (project / "instavm.yaml").write_text(MANIFEST)
    done = home.instavm("deploy", str(project), "-y", "-j")
    assert (done["slug"], done["service_mode"]) == ("hello", "nohup")
    with urllib.request.urlopen(done["share_url"] + "/there", timeout=30) as answer:
        assert answer.read() == b"it's hello ready\n/there"
    (key,) = sdk.list_ssh_keys()  # which the command line has added
    said = home.run("ssh-keygen", "-lf", str(home.folder / ".ssh" / "id_ed25519.pub"))
    assert (key["fingerprint"], key["comment"]) == (said.split()[1], "me@home")
    where = f"{done['vm_id']}@{server.facts['ssh'].rpartition(':')[0]}"
    ssh = ("ssh", "-o", "BatchMode=yes", "-i", str(home.folder / ".ssh" / "id_ed25519"))
    assert home.run(*ssh, where, "id -u; pwd") == "0\n/\n"
    home.run("scp", "-O", *ssh[1:], f"{where}:/.instavm-cookbooks/hello/app.py", str(home.folder / "back"))
    assert (home.folder / "back").read_text() == APP
    sdk.delete_ssh_key(key["id"])
    home.run(*ssh, where, "true", code=255)
    home.instavm("rm", done["vm_id"])
