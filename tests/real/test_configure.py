"""A guest that was booted for nothing is told what it is for, and goes on as if it had been booted for it.

The server is killed, as for its identity; a copy is the one machine going back to a snapshot of all of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyvisor.host.boot import guest_config
from polyvisor.host.guest import pairs
from polyvisor.host.guest.journal import Reader
from polyvisor.host.paths import CONSOLE, JOURNAL
from polyvisor.model.blueprint import serial_of
from polyvisor.model.faults import Busy, Invalid
from polyvisor.model.guest import Exec, Identity, JournalRecord
from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import Digest, InstanceId, ProjectId, VolumeId
from polyvisor.model.instance import Address
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import GIB, MIB, Bytes
from polyvisor.wire.native import CreateVolume, MountRequest
from real.alone import Alone, say
from real.guests import Guests
from serving import Server

ADDRESS = Address("02:11:22:33:44:55", "10.99.7.15", 24, "10.99.7.2", "10.99.7.3")
SPEC = Spec(
    Digest("sha256:0"), "busybox", Shape.MICRO, Firmware.NONE, 1, Bytes(128 * MIB), Bytes(GIB), hostname="copy_1"
)  # fmt: skip
BLUEPRINT = Blueprint(InstanceId("i" * 24), 1, ProjectId("p" * 24), "it", SPEC, ADDRESS)
LARGE = tuple((f"V{number}", "x" * 1020) for number in range(200))  # 200 KiB
WHO = "id -u; id -g; pwd; echo $A; echo ${#V199}; env | wc -c; hostname"
NAMES = "cat /etc/hostname /etc/hosts /etc/resolv.conf"


def told(search: str = "", disks: tuple[Disk, ...] = (), **fields: Any) -> bytes:
    """What a firmware would hold."""
    return guest_config(replace(BLUEPRINT, spec=replace(SPEC, **fields), disks=disks), search)


class Journalled(Alone):
    """With what its workload and its console said."""

    def records(self) -> list[JournalRecord]:
        """Everything so far."""
        return list(Reader().feed((self.directory / JOURNAL).read_bytes()))

    async def output(self) -> bytes:
        """All that the workload said, once it has ended; with its exit code."""
        async with asyncio.timeout(30):
            while not (records := self.records()) or records[-1].stream != "exit":
                await asyncio.sleep(0.05)
        assert [record.stream for record in records].count("start") == 1 and records[0].stream == "start"
        return b"".join(record.data for record in records) + b"exit %d" % (records[-1].code or 0)


async def leave(server: Server, **fields: Any) -> Journalled:
    """A micro guest without a workload, of a server that is killed."""
    async with server.client() as client:
        vm = await Guests(client).boot(hostname="source", memory="128M", disk="1G", **fields)
    server.kill()
    return Journalled(server.data / "instances" / vm.id)


@pytest.fixture
async def alone(another: Callable[..., Server]) -> Journalled:
    """A micro guest whose server is gone until the end of the test."""
    return await leave(another())


async def test_it_runs_what_it_is_told_as_it_is_told(alone: Journalled) -> None:
    """A workload that reads its input, of which there is none; then it ends, and with it the machine."""
    script = f"cat; {WHO}; sed -n '/^search/p' /etc/resolv.conf; while ! [ -e /tmp/go ]; do sleep 0.05; done; exit 7"
    env = (("A", "one two"), *LARGE)
    config = told("p.internal", argv=("sh", "-c", script), env=env, cwd="/usr", user="1234:56")
    async with alone.agent() as agent:
        await agent.take_identity(Identity("copy_1", address=ADDRESS, seed=bytes(32)))
        await agent.configure(config)
        said = (await say(agent, WHO)).split("\n")
        assert said[:5] == ["1234", "56", "/usr", "one two", "1020"] and int(said[5]) > 200 * 1024
        assert await say(agent, NAMES) == (
            f"copy_1\n127.0.0.1\tlocalhost\n::1\tlocalhost\n{ADDRESS.ip}\tcopy_1\n"
            f"nameserver {ADDRESS.dns}\nsearch p.internal"
        )
        assert await say(agent, "id -u; pwd; echo $A", env={"A": "mine"}, cwd="/", user="0") == "0\n/\nmine"
        for again in (config, told(), b""):
            with pytest.raises(Busy):
                await agent.configure(again)
        await agent.execute(Exec(("touch", "/tmp/go")))  # the machine may be gone before it answers
        output = await alone.output()
    assert output.startswith(b"1234\n56\n/usr\none two\n1020\n") and output.endswith(b"search p.internal\nexit 7")
    console = (alone.directory / CONSOLE).read_text(errors="replace")
    assert re.findall("polyvisor: (.*) is up", console) == ["source", "copy_1"]


@pytest.mark.parametrize("config", [b"", told(env=(("A", "B"),)), told(env=LARGE)], ids=["empty", "small", "large"])
async def test_without_a_command_there_is_no_workload(alone: Journalled, config: bytes) -> None:
    async with alone.agent() as agent:
        await agent.configure(config)
        assert await say(agent, "echo $A") == ("B" if b"A=B" in config else "")
        assert alone.records() == []
        with pytest.raises(Busy):
            await agent.configure(told(argv=("true",)))


async def test_what_is_malformed_is_named_and_nothing_changes(alone: Journalled) -> None:
    good = told("p.internal", argv=("true",), env=(("A", "B"),), cwd="/usr", user="1")
    bad = [
        ("env", "A"), ("env", "=B"), ("env", ""), ("cwd", ""), ("cwd", "/" * 5000), ("user", ""), ("user", "u" * 256),
        ("search", ""), ("search", "a\nnameserver 1.2.3.4"), ("search", "x" * 300), ("mount", ""), ("mount", "serial"),
        ("mount", "serial ro"), ("mount", "serial rx /p"), ("mount", "serial ro p"), ("mount", "s" * 70 + " ro /p"),
        ("config", ""),
    ]  # fmt: skip
    async with alone.agent() as agent:
        before = await say(agent, f"{NAMES}; {WHO}")
        for field, value in bad:
            with pytest.raises(Invalid) as caught:
                await agent.configure(pairs.pack([(field, value)]) + good.replace(b"cwd\0/usr\0user\0" + b"1\0", b""))
            assert caught.value.field == field, value
        for field, value in (("hostname", "a b"), ("address", "10.0.0.1"), ("gateway", "x"), ("dns", "x\n")):
            with pytest.raises(Invalid) as caught:
                await agent.configure(pairs.pack([(field, value)]) + good)
            assert caught.value.field == field, value
        for broken in (good[:-1], good + b"x\0", b"\0", pairs.pack([("tty", "1")]) + good, good + b"x" * MIB):
            with pytest.raises(Invalid):
                await agent.configure(broken)
        assert await say(agent, f"{NAMES}; {WHO}") == before
        assert alone.records() == []
        await agent.configure(good)
    assert await alone.output() == b"exit 0"


async def test_volumes_are_mounted_before_it_runs(another: Callable[..., Server]) -> None:
    server = another()
    async with server.client() as client:
        volumes = [await client.volumes.create(CreateVolume(name=name, size="64M")) for name in ("one", "two")]
    alone = await leave(server, volumes=[MountRequest(volume=volume.id) for volume in volumes])
    one, two = (Disk(v.id, serial_of(VolumeId(v.id)), Bytes(0), f"/v/{v.name}") for v in volumes)
    two = replace(two, read_only=True)
    absent, astray = Disk("v", "absent", Bytes(0), "/v/absent"), replace(two, path="/etc/hostname/v")
    script = "echo $A > /v/one/x; cat /v/one/x; touch /v/two/x || grep -c ' /v/' /proc/mounts; exit 3"
    fields: dict[str, Any] = {"argv": ("sh", "-c", script), "env": (("A", "B"),)}
    async with alone.agent() as agent:
        waiting = asyncio.create_task(agent.configure(told(disks=(one, absent), **fields)))
        await agent.ping()  # it answers others meanwhile
        with pytest.raises(Busy):
            await agent.configure(told())
        waiting.cancel()  # as if it had never been asked
        await asyncio.gather(waiting, return_exceptions=True)
        with pytest.raises(Invalid) as caught:
            await agent.configure(told(disks=(one, astray), **fields))
        assert "/etc/hostname/v" in caught.value.public
        assert await say(agent, "echo $A") == "" and alone.records() == []
        await agent.configure(told(disks=(one, two), **fields))
    output = await alone.output()
    assert output.startswith(b"B\n") and b"Read-only" in output and output.endswith(b"2\nexit 3")


async def test_copies_of_one_guest_have_a_workload_each(alone: Journalled) -> None:
    await alone.hmp("savevm source")
    for number in range(3):
        (alone.directory / JOURNAL).open("wb").close()  # written at its end, wherever that is
        await alone.hmp("loadvm source")
        async with alone.agent() as agent:
            await agent.take_identity(Identity(f"copy{number}", seed=bytes([number]) * 32))
            config = told(hostname=f"copy{number}", env=(("N", str(number)),), argv=("sh", "-c", "echo $N; sleep 99"))
            await agent.configure(config)
            assert await say(agent, "hostname; echo $N") == f"copy{number}\n{number}"
            async with asyncio.timeout(30):
                while len(alone.records()) < 2:
                    await asyncio.sleep(0.05)
        assert [(r.stream, r.data) for r in alone.records()] == [("start", b""), ("stdout", b"%d\n" % number)]


async def test_a_larger_data_disk_is_used(alone: Journalled) -> None:
    size = "df -k / | tail -n 1 | awk '{print $2}'"
    async with alone.agent() as agent:
        before = int(await say(agent, size))
        await alone.grow("pvdata", 3 * GIB)
        await agent.configure(told())
        assert int(await say(agent, size)) > 2.8 * before


async def test_a_guest_with_a_workload_is_told_nothing(another: Callable[..., Server]) -> None:
    alone = await leave(another(), command=["sleep", "99"])
    async with alone.agent() as agent:
        with pytest.raises(Busy):
            await agent.configure(told())


def test_what_a_firmware_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        told(env=(("A", "\0"),))
