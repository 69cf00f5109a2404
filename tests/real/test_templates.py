"""Templates: a create that fits one is a copy of a booted machine, and nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from polyvisor.client import Client, Refused
from polyvisor.wire.native import CreateTemplate, Template
from real.conftest import finish
from real.guests import Guests, run, sh
from real.test_forks import who
from serving import Server, machines_of


@pytest.fixture
async def template(client: Client) -> AsyncIterator[Template]:
    """Of busybox with 112 MiB."""
    made = await client.templates.create(CreateTemplate(image="busybox", memory="112M"))
    yield made
    await client.templates.delete(made.id)


async def test_instances_made_of_a_template_are_as_if_they_had_booted(
    client: Client, guests: Guests, template: Template, base: Server
) -> None:
    words = ["sh", "-c", 'echo "$WHO says $(hostname)"; id -u; pwd; exit 3']
    fields: dict[str, Any] = {"memory": "112M", "command": words, "cwd": "/tmp", "user": "7"}
    one, two = await asyncio.gather(*(guests.boot(env={"WHO": name}, **fields) for name in ("one", "two")))
    for vm, name in ((one, "one"), (two, "two")):
        ended = await client.instances.wait(vm.id, ["ended"])
        assert ended.exit is not None
        assert ended.exit.code == 3
        logs = base.cli("logs", vm.id, check=True).stdout.decode().split("\n")
        assert logs[:3] == [f"{name} says {vm.name}", "7", "/tmp"]
    assert one.origin == two.origin == template.id


async def test_copies_share_nothing_that_is_theirs(client: Client, guests: Guests, template: Template) -> None:
    found = [await guests.boot(memory="112M", env={"SECRET": f"s{n}"}) for n in range(3)]
    cold = await guests.boot(memory="112M", template=False)
    assert cold.origin is None
    told = await asyncio.gather(*(who(client, vm.id) for vm in found))
    for column in zip(*told, strict=True):
        assert len(set(column)) == 3, column
    assert [await sh(client, vm.id, "echo $SECRET") for vm in found] == ["s0", "s1", "s2"]
    ran = await run(client, found[0].id, "sh", "-c", "grep -l SECRET /proc/*/environ; true")
    assert b"/proc/1/" not in ran.out
    await sh(client, found[0].id, "echo mine > /root/file; sync")
    assert (await run(client, found[1].id, "cat", "/root/file")).code == 1
    await client.instances.restart(found[0].id, wait="ready")
    assert await sh(client, found[0].id, "cat /root/file; echo $SECRET") == "mine\ns0"


async def test_templates_are_listed_apart_and_made_once(client: Client, guests: Guests, template: Template) -> None:
    assert template.id in [t.id for t in await client.templates.list()]
    assert template.id not in [s.id async for s in client.snapshots.list()]
    with pytest.raises(Refused, match="there is a template"):
        await client.templates.create(CreateTemplate(image="busybox", memory="112M"))
    with pytest.raises(Refused, match="no-such"):
        await client.templates.create(CreateTemplate(image="no-such-image"))
    assert [i async for i in client.instances.list() if i.name.startswith("template-")] == []


@pytest.fixture
def pooled(base: Server, tmp_path: Path) -> Iterator[Server]:
    """A server that keeps two copies of each template running."""
    config = tmp_path / "polyvisor.toml"
    config.write_text("[templates]\npool = 2\n")
    server = Server(tmp_path / "data", "--config", str(config)).start()
    yield server
    server.cli("template", "rm", *(line.split()[0] for line in templates_of(server)), check=True)
    finish(server)


def templates_of(server: Server) -> list[str]:
    """Rows of what the command lists."""
    return server.cli("template", "ls", check=True).stdout.decode().strip().split("\n")[1:]


async def spares(server: Server, count: int) -> None:
    """Until so many machines run that nobody has asked for, each with its agent up."""
    async with asyncio.timeout(60):
        while len(machines_of(server.data)) < count:
            await asyncio.sleep(0.1)
    await asyncio.sleep(2)  # they are exercised


ONE_NAME = {"allow_http": False, "allow_https": False, "allow_package_managers": False, "domains": ["a.example"]}


async def test_a_create_takes_over_a_copy_that_runs(pooled: Server) -> None:
    pooled.cli("template", "create", "--memory", "112M", "busybox", check=True)
    await spares(pooled, 2)
    async with pooled.client() as client:
        waiting = set(machines_of(pooled.data))
        assert [i async for i in client.instances.list()] == []
        guests = Guests(client)
        script = 'echo "$WHO says $(hostname)"; exit 4'
        one = await guests.boot(memory="112M", name="one", command=["sh", "-c", script], env={"WHO": "me"})
        two = await guests.boot(
            memory="112M", name="two", env={"WHO": "you"}, lifetime="1h", labels={"a": "b"}, egress=ONE_NAME
        )
        assert {two.pid} <= waiting
        assert b"REFUSED" in (await run(client, "two", "nslookup", "b.example")).out
        ended = await client.instances.wait(one.id, ["ended"])
        assert (ended.exit and ended.exit.code, two.labels) == (4, {"a": "b"})
        assert pooled.cli("logs", "one", check=True).stdout == b"me says one\n"
        assert await sh(client, "two", "echo $WHO on $(hostname)") == "you on two"
        assert len({tuple(await who(client, two.id))[3]} | {one.address}) == 2
        pooled.kill()
        pooled.start()
    async with pooled.client() as client:
        assert await sh(client, "two", "echo $WHO") == "you"
        await spares(pooled, 3)
        names = [i.name async for i in client.instances.list()]
        assert sorted(names) == ["one", "two"]
