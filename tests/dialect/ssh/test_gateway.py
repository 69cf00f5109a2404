"""Who comes in, and what he may do there: OpenSSH's clients against the fake."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from dialect.ssh.conftest import Ssh
from polyvisor.gateway.door import Door
from polyvisor.gateway.files import GuestFiles
from polyvisor.gateway.limits import Limits
from polyvisor.model.foreign import Foreign
from polyvisor.wire.access import AddSshKey
from polyvisor.wire.native import CreateInstance

pytestmark = pytest.mark.asyncio(loop_scope="session")
OWN = {"channel", "connection", "env", "logger", "convert_attrs", "format_longname"}
"""What of asyncssh's file server touches no file."""


async def test_a_command_runs_and_ends_as_it_does(ssh: Ssh, vm: str) -> None:
    ended = await ssh.ssh(vm, "echo out; echo err >&2; exit 7")
    assert (ended.code, ended.out, ended.err) == (7, b"out\n", b"err\n")
    data = bytes(range(256)) * 4096
    ended = await ssh.ssh(vm, "cat", stdin=data)
    assert (ended.code, ended.out == data) == (0, True)


async def test_an_instance_is_called_by_id_name_or_another_name(ssh: Ssh, vm: str) -> None:
    made = (await ssh.served.http.get(f"/api/v1/instances/{vm}")).json()
    foreign = Foreign("instavm", alias=("vm", "vmid-abc-15"))
    await ssh.served.parts.engine.foreigners.put(made["project"], made["id"], foreign)
    for name in (made["id"], made["name"], "vmid-abc-15"):
        assert (await ssh.ssh(name, "hostname")).out.decode().strip() == made["name"], name


async def test_a_terminal_has_a_size(ssh: Ssh, vm: str) -> None:
    ended = await ssh.ssh(vm, "stty", "size", flags=["-tt"])
    assert (ended.code, ended.out) == (0, b"24 80\n")


async def test_variables_come_along(ssh: Ssh, vm: str) -> None:
    assert (await ssh.ssh(vm, "env", flags=["-o", "SetEnv=WHO=me"])).out.count(b"WHO=me\n") == 1


USERS = "root:x:0:0::/root:/bin/sh\nappuser:x:1000:1000::/home/appuser:/bin/bash\n"


@pytest.mark.parametrize(
    ("users", "who", "home"),
    [
        (USERS, "appuser", "/home/appuser"),
        (USERS.replace("/home/appuser", ""), "appuser", "/"),
        (USERS.replace("1000:", "x:"), "root", ""),
        (USERS.replace("appuser:", "app:"), "root", ""),
        ("\xff\n:::\n", "root", ""),
        (None, "root", ""),
    ],
)
async def test_one_comes_in_as_the_user_that_the_guest_has(
    ssh: Ssh, tmp_path: Path, users: str | None, who: str, home: str
) -> None:
    id = str((await ssh.served.make())["id"])
    files = ssh.served.vm(id)._guest.files
    if users is not None:
        files["/etc/passwd"] = users.encode("latin-1")
    assert (await ssh.ssh(id, "whoami")).out.decode().strip() == who
    assert (f"HOME={home}\nUSER={who}\nLOGNAME={who}\n" in (await ssh.ssh(id, "env")).out.decode()) is (home != "")
    files[f"{home.rstrip('/')}/here"] = b""
    (tmp_path / "f").write_text("mine")
    for flag in ("-O", "-s"):
        ended = await ssh.run("scp", flag, "-q", str(tmp_path / "f"), f"{id}@127.0.0.1:{flag}", port="-P")
        assert (ended.code, files[f"{home.rstrip('/')}/{flag}"]) == (0, b"mine"), ended


@pytest.mark.parametrize("name", ["nonesuch", "", "a" * 300])
async def test_who_is_nobody_there_is_told_nothing(ssh: Ssh, vm: str, name: str) -> None:
    theirs = await ssh.ssh(name or "x", "true")
    unknown = await ssh.ssh(vm, "true", key="stranger")
    assert (theirs.code, unknown.code) == (255, 255)
    assert theirs.err.split(b":")[1:] == unknown.err.split(b":")[1:] == [b" Permission denied (publickey).\r\n"]


async def test_another_projects_instance_is_none(ssh: Ssh, vm: str) -> None:
    key = await ssh.served.stranger()
    async with ssh.served.client(key) as client:
        await client.ssh_keys.add(AddSshKey(public_key=ssh.public("tenant")))
        own = await client.instances.create(CreateInstance(image="busybox", name="tenants"), wait="ready")
        assert (await ssh.ssh("tenants", "hostname", key="tenant")).out == b"tenants\n"
        assert (await ssh.ssh(own.id, "true", key="one")).code == 0  # the operator's
        assert (await ssh.ssh(vm, "true", key="tenant")).code == 255


async def test_a_name_that_means_two_lets_nobody_in(ssh: Ssh, vm: str) -> None:
    """Somebody may add another's public key and call an instance of his as the other does."""
    thief = await ssh.served.stranger()
    async with ssh.served.client(thief) as client:
        await client.ssh_keys.add(AddSshKey(public_key=ssh.public("one")))
        await client.instances.create(CreateInstance(image="busybox", name=vm), wait="ready")
    assert (await ssh.ssh(vm, "true")).code == 255
    ours = (await ssh.served.http.get(f"/api/v1/instances/{vm}")).json()["id"]
    assert (await ssh.ssh(ours, "true")).code == 0


async def test_only_the_key_that_signed_says_who_it_is(ssh: Ssh, vm: str) -> None:
    """A client may show another's public key, and sign with its own."""
    id = (await ssh.served.http.get(f"/api/v1/instances/{vm}")).json()["id"]
    user = (await ssh.served.http.post("/api/v1/users", json={"name": "signs", "password": "long enough"})).json()
    grant = {"user": "signs", "project": ssh.served.parts.facts["project"], "actions": ["instance.*"]}
    assert (await ssh.served.http.post("/api/v1/grants", json=grant)).status_code < 300
    login = await ssh.served.http.post("/api/v1/sessions", json={"name": "signs", "password": "long enough"})
    async with ssh.served.client(login.json()["token"]) as client:
        await client.ssh_keys.add(AddSshKey(public_key=ssh.public("signs")))
    private = asyncssh.read_private_key(ssh.key("signs"))
    signature = private.sign(b"text", private.sig_algorithms[0])
    for mine_first in (True, False):
        mine, theirs = private.convert_to_public(), asyncssh.read_public_key(ssh.key("one").with_suffix(".pub"))
        door = Door(ssh.served.parts.engine, set(), Limits())
        for key in (mine, theirs) if mine_first else (theirs, mine):
            assert await door.validate_public_key(id, key)
        assert not theirs.verify(b"text", signature) and mine.verify(b"text", signature)
        principal, instance = await door._who()
        assert (principal.user, instance) == (user["id"], id)


async def test_a_key_that_is_taken_away_lets_nobody_in(ssh: Ssh) -> None:
    vm = str((await ssh.served.make())["name"])
    made = await ssh.served.http.post("/api/v1/ssh-keys", json={"public_key": ssh.public("brief")})
    assert (await ssh.ssh(vm, "true", key="brief")).code == 0
    assert (await ssh.served.http.delete(f"/api/v1/ssh-keys/{made.json()['id']}")).status_code == 204
    assert (await ssh.ssh(vm, "true", key="brief")).code == 255


async def test_an_instance_that_does_not_run_says_so(ssh: Ssh) -> None:
    off = str((await ssh.served.make(power="off"))["id"])
    ended = await ssh.ssh(off, "true")
    assert ended.code == 255 and b"the instance is stopped" in ended.err


async def test_files_go_by_scp_and_sftp(ssh: Ssh, tmp_path: Path) -> None:
    id = str((await ssh.served.make())["id"])
    data = bytes(range(256)) * 3000
    (tmp_path / "in").write_bytes(data)
    (tmp_path / "empty").write_bytes(b"")
    for flag in ("-O", "-s"):
        to = f"{id}@127.0.0.1:/srv/{flag[1]}"
        ended = await ssh.run("scp", flag, "-q", str(tmp_path / "in"), to, port="-P")
        assert (ended.code, ended.err) == (0, b""), ended
        assert ssh.served.vm(id)._guest.files[f"/srv/{flag[1]}"] == data
        ended = await ssh.run("scp", flag, "-q", to, str(tmp_path / flag), port="-P")
        assert (ended.code, ended.err) == (0, b"") and (tmp_path / flag).read_bytes() == data
    script = f"put {tmp_path}/empty /a/e\nmkdir /made\nls -l /a\nrename /a/e /a/f\nrm /srv/O\nls /srv\nget /nonesuch\n"
    ended = await ssh.run("sftp", "-q", "-b", "-", f"{id}@127.0.0.1", stdin=script.encode(), port="-P")
    assert ended.code == 1 and b"/nonesuch" in ended.err, ended
    files = ssh.served.vm(id)._guest.files
    assert set(files) >= {"/a/f", "/srv/s"} and files["/a/f"] == b"" and "/srv/O" not in files


async def test_a_file_is_written_over_from_its_beginning_and_continued(ssh: Ssh, tmp_path: Path) -> None:
    id = str((await ssh.served.make())["id"])
    files = ssh.served.vm(id)._guest.files
    files["/f"] = b"0123456789" * 50_000
    (tmp_path / "short").write_bytes(b"short")
    ended = await ssh.run("scp", "-s", "-q", str(tmp_path / "short"), f"{id}@127.0.0.1:/f", port="-P")
    assert (ended.code, files["/f"]) == (0, b"short")
    whole = bytes(range(256)) * 4000
    (tmp_path / "whole").write_bytes(whole)
    files["/g"] = whole[:500_000]
    script = f"reput {tmp_path}/whole /g\n".encode()
    ended = await ssh.run("sftp", "-q", "-b", "-", f"{id}@127.0.0.1", stdin=script, port="-P")
    assert (ended.code, ended.err, files["/g"] == whole) == (0, b"", True)


async def test_a_port_of_the_guests_own_is_reached_and_no_other(ssh: Ssh) -> None:
    id = str((await ssh.served.make())["id"])
    ssh.served.vm(id)._guest.listening.add(8000)
    ended = await ssh.ssh(id, flags=["-W", "localhost:8000"], stdin=b"there and back")
    assert (ended.code, ended.out) == (0, b"there and back")
    ended = await ssh.ssh(id, flags=["-W", "192.0.2.1:80"])
    assert ended.code == 255 and b"forwarding failed" in ended.err
    ended = await ssh.ssh(id, "true", flags=["-o", "ExitOnForwardFailure=yes", "-R", "0:localhost:1"])
    assert ended.code == 255


async def test_what_was_done_is_in_the_log(ssh: Ssh, vm: str) -> None:
    id = (await ssh.served.http.get(f"/api/v1/instances/{vm}")).json()["id"]
    assert (await ssh.ssh(id, "true")).code == 0
    assert (await ssh.ssh("nonesuch", "true")).code == 255
    found = (await ssh.served.http.get("/api/v1/audit", params={"action": "ssh.login"})).json()["items"]
    assert [(one["subject"], one["outcome"]) for one in found[:2]] == [("", "Unauthenticated"), (id, "ok")]


async def test_too_many_keys_end_it(ssh: Ssh, vm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh.gateway, "limits", Limits(tries=2))
    keys = [word for n in range(3) for word in ("-i", str(ssh.key(f"other{n}")))]
    ended = await ssh.ssh(vm, "true", key="other3", flags=keys)
    assert ended.code == 255 and b"Permission denied" not in ended.err


async def test_who_says_nothing_is_cut_off(ssh: Ssh, vm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh.gateway, "limits", Limits(idle=1.0))  # type: ignore[arg-type]  # seconds
    id = (await ssh.served.http.get(f"/api/v1/instances/{vm}")).json()["id"]
    assert (await ssh.ssh(id, "sleep", "30")).code == 255


async def test_no_verb_of_this_hosts_files_is_left_open() -> None:
    theirs = {name for name in vars(asyncssh.SFTPServer) if not name.startswith("_")}
    assert theirs - set(vars(GuestFiles)) == OWN


@pytest.mark.parametrize(
    "text",
    ["", "ssh-ed25519", "ssh-ed25519 AAAA", "x\ny", "ssh-ed25519 !!!", "-----BEGIN OPENSSH PRIVATE KEY-----", "é"],
)
async def test_what_is_no_key_is_refused(ssh: Ssh, text: str) -> None:
    answer = await ssh.served.http.post("/api/v1/ssh-keys", json={"public_key": text})
    assert (answer.status_code, answer.json()["field"]) == (422, "public_key"), answer.text


async def test_keys_are_listed_by_fingerprint_and_once(ssh: Ssh) -> None:
    process = await asyncio.create_subprocess_exec(
        "ssh-keygen", "-l", "-f", str(ssh.key("one")) + ".pub", stdout=asyncio.subprocess.PIPE
    )
    said = (await process.communicate())[0].decode().split()
    items: list[dict[str, Any]] = (await ssh.served.http.get("/api/v1/ssh-keys")).json()["items"]
    found = next(one for one in items if one["owner"] == "bootstrap" and one["comment"] == "one@test")
    assert (found["fingerprint"], found["comment"], isinstance(found["id"], int)) == (said[1], said[2], True)
    again = await ssh.served.http.post("/api/v1/ssh-keys", json={"public_key": ssh.public("one")})
    assert (again.status_code, again.json()["kind"]) == (409, "Exists")
    weak = ssh.folder / "weak"
    assert not weak.exists()
    argv = ["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", str(weak)]
    assert (await (await asyncio.create_subprocess_exec(*argv)).wait()) == 0
    answer = await ssh.served.http.post("/api/v1/ssh-keys", json={"public_key": Path(f"{weak}.pub").read_text()})
    assert answer.status_code == 422 and "2048" in answer.json()["message"]
