"""No password, token or key is anywhere in the clear: not in the records, the log, or any process's words."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from polyvisor.client import Refused
from polyvisor.wire.access import CreateKey, CreateUser, GrantRequest, Login
from real.guests import Guests, sh
from serving import Server


def said_by_processes(data: Path) -> bytes:
    """The arguments and the environment of every process that holds a file below `data`, and of the server's own."""
    said = b""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes()
            links = [str(link.readlink()) for link in (folder / "fd").iterdir()]
            if str(data).encode() in words or any(link.startswith(str(data)) for link in links):
                said += words + (folder / "environ").read_bytes()
        except OSError:  # it has ended, or is not ours to read
            continue
    return said


async def test_no_secret_is_kept_or_said_in_the_clear(another: Callable[..., Server]) -> None:
    server = another()
    facts, password = server.facts, f"pass {uuid.uuid4()}"
    secrets = {
        "key": facts["api_key"], "admin": facts["admin"]["password"], "signing": facts["jwt_secret"], "user": password,
    }  # fmt: skip
    async with server.client() as root:
        vm = await Guests(root).boot(memory="128M", disk="1G")
        await root.users.create(CreateUser(name="ann", password=password))
        await root.grants.assign(GrantRequest(user="ann", project="root", actions=["instance.*"]))
        secrets["token"] = (await root.sessions.login(Login(name="ann", password=password))).token
        async with server.client(secrets["token"]) as ann:
            secrets["made"] = (await ann.keys.create(CreateKey(name="k"))).key
            assert await sh(ann, vm.id, "echo it works") == "it works"
        with pytest.raises(Refused):
            await root.sessions.login(Login(name="ann", password=secrets["admin"]))  # in the wrong field
        secrets["velocity"] = await authkey(facts["url"], facts["admin"])
        assert (await root.audit.list()).items
        said = said_by_processes(server.data)
        assert b"qemu-system" in said
        assert b"serve" in said
    places = {"the processes": said, "the log": server.log.read_bytes()}
    for file in sorted(server.data.glob("polyvisor.db*")):
        places[file.name] = file.read_bytes()
    assert "polyvisor.db" in places
    found = [
        (what, where) for what, secret in secrets.items() for where, held in places.items() if secret.encode() in held
    ]
    assert found == []


async def authkey(url: str, admin: dict[str, str]) -> str:
    """One of the Velocity dialect."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answer = await http.post("/u/auth", json={"username": admin["username"], "password": admin["password"]})
        return str(answer.json()["authkey"])
