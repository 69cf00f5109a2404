"""Commands in a guest: streams apart, exit codes, signals, time limits, terminals."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect

from polyvisor.client import Client, Refused
from polyvisor.wire.native import ExecRequest
from polyvisor.wire.streams import STDIN, STDOUT, pack
from real.guests import Guests, lasting, run, sh
from serving import Server


@pytest.fixture(scope="module")
def vm(base: Server) -> Iterator[str]:
    """One guest for the whole module."""
    with lasting(base, env={"IMAGE_SIDE": "a b=c"}, cwd="/tmp", memory="192M") as id:
        yield id


async def test_streams_are_apart_and_the_exit_code_comes_back(client: Client, vm: str) -> None:
    ran = await run(client, vm, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.out, ran.err, ran.code) == (b"out\n", b"err\n", 7)


async def test_ten_mebibytes_go_in_and_come_back_the_same(client: Client, vm: str) -> None:
    data = os.urandom(6 * 2**20) + b"\xc0\xdb" * 2**20 + b"\0" * 2 * 2**20
    received = bytearray()
    async with client.instances.exec(vm, ExecRequest(argv=["cat"])) as process:

        async def feed() -> None:
            await process.write(data)
            await process.eof()

        feeding = asyncio.create_task(feed())
        async for output in process:
            received += output.data
        await feeding
        assert (await process.result()).code == 0
    assert bytes(received) == data


@asynccontextmanager
async def impatient(server: Server, key: str) -> AsyncIterator[ClientConnection]:
    """An exec socket of a client that wants its pings answered at once."""
    url, headers = f"ws{server.facts['url'][4:]}", {"X-API-Key": server.facts["api_key"]}
    async with connect(
        f"{url}/api/v1/instances/{key}/exec", additional_headers=headers, proxy=None, ping_interval=0.2, ping_timeout=1
    ) as socket:
        yield socket


async def test_pings_are_answered_while_a_command_takes_no_input(base: Server, vm: str) -> None:
    async with impatient(base, vm) as socket:
        await socket.send(ExecRequest(argv=["sleep", "3"]).model_dump_json())
        for _ in range(30):
            await socket.send(pack(STDIN, bytes(64 * 1024)))
        assert json.loads(await socket.recv())["code"] == 0


async def test_pings_are_answered_while_a_guest_is_coming_up(base: Server, guests: Guests) -> None:
    coming = await guests.make(wait="launched", memory="96M")
    async with impatient(base, coming.id) as socket:
        await socket.send(ExecRequest(argv=["true"]).model_dump_json())
        assert json.loads(await socket.recv())["code"] == 0


async def test_environment_folder_and_user(client: Client, vm: str) -> None:
    said = await sh(client, vm, 'echo "$IMAGE_SIDE|$MINE|$PWD|$HOME|$(id -un)"', env={"MINE": "é\n1"})
    assert said == "a b=c|é\n1|/tmp|/root|root"
    said = await sh(client, vm, 'echo "$PWD|$HOME|$(id -u):$(id -g)"', user="nobody", cwd="/etc")
    assert said == "/etc|/|65534:65534"
    assert await sh(client, vm, "id -u; id -g", user="1234:5678") == "1234\n5678"


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        (ExecRequest(argv=["no-such-command"]), 127, b"no-such-command"),
        (ExecRequest(argv=["/etc/passwd"]), 126, b"Permission denied"),
        (ExecRequest(argv=["true"], cwd="/no/such/folder"), 126, b"/no/such/folder"),
        (ExecRequest(argv=["true"], user="no-such-user"), 126, b"no such user"),
    ],
)
async def test_what_cannot_be_run_says_why(
    client: Client, vm: str, request_: ExecRequest, code: int, word: bytes
) -> None:
    async with client.instances.exec(vm, request_) as process:
        said = b"".join([output.data async for output in process])
        assert (await process.result()).code == code
    assert word in said


async def test_a_time_limit_ends_a_command_with_its_children(client: Client, vm: str) -> None:
    ran = await run(client, vm, "sh", "-c", "sleep 4321 & sleep 4321", timeout=0.5)
    assert ran.result.timed_out
    assert await sh(client, vm, "pidof sleep || true") == ""


async def test_a_signal_ends_a_command(client: Client, vm: str) -> None:
    async with client.instances.exec(vm, ExecRequest(argv=["sh", "-c", "echo up; exec sleep 4321"])) as process:
        async for _ in process:
            await process.signal(15)
        assert (await process.result()).signal == 15


async def test_a_command_ends_when_its_caller_hangs_up(client: Client, vm: str) -> None:
    async with client.instances.exec(vm, ExecRequest(argv=["sh", "-c", "echo up; exec sleep 4321"])) as process:
        async for _ in process:
            break
    async with asyncio.timeout(10):
        while await sh(client, vm, "pidof sleep || true"):
            pass


async def test_a_child_that_stays_behind_does_not_hold_up_the_end(client: Client, vm: str) -> None:
    async with asyncio.timeout(10):
        ran = await run(client, vm, "sh", "-c", "sleep 20 & echo done")
    assert (ran.out, ran.code) == (b"done\n", 0)
    await sh(client, vm, "killall sleep")


async def test_a_terminal_has_a_size_that_changes(client: Client, vm: str) -> None:
    script = "trap 'stty size; exit 3' WINCH; stty size; while :; do sleep 0.05; done"
    request = ExecRequest(argv=["sh", "-c", script], tty=True, rows=40, cols=120)
    said = b""
    async with client.instances.exec(vm, request) as process:
        async for output in process:
            assert output.channel == STDOUT
            said += output.data
            if said == b"40 120\r\n":
                await process.resize(50, 132)
        assert (await process.result()).code == 3
    assert said == b"40 120\r\n50 132\r\n"


async def test_typing_on_a_terminal(client: Client, vm: str) -> None:
    said = b""
    async with client.instances.exec(vm, ExecRequest(argv=["sh"], tty=True)) as process:
        await process.write(b"tty; echo $((6*7)); exit 5\n")
        async for output in process:
            said += output.data
        assert (await process.result()).code == 5
    assert b"/dev/pts/" in said and b"42\r\n" in said


async def test_many_commands_at_once_do_not_mix(client: Client, vm: str) -> None:
    async def one(number: int) -> None:
        ran = await run(client, vm, "sh", "-c", f"cat; echo {number} >&2; exit {number}", stdin=b"%d" % number * 1000)
        assert (ran.out, ran.err, ran.code) == (b"%d" % number * 1000, b"%d\n" % number, number)

    async with asyncio.timeout(60):
        await asyncio.gather(*(one(number) for number in range(40)))


async def test_a_slow_reader_holds_up_its_own_command_only(client: Client, vm: str) -> None:
    async with client.instances.exec(vm, ExecRequest(argv=["cat", "/dev/zero"])) as greedy:
        async for _ in greedy:
            break  # and read no more
        assert await sh(client, vm, "echo fine") == "fine"


async def test_a_fast_talker_does_not_fill_memory(client: Client, vm: str) -> None:
    """Nobody takes its input, so the writer waits instead of the guest growing."""
    async with client.instances.exec(vm, ExecRequest(argv=["sh", "-c", "echo up; exec sleep 4321"])) as process:
        async for _ in process:
            break
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await process.write(bytes(64 * 2**20))
    assert await sh(client, vm, "echo fine") == "fine"


async def test_a_command_in_a_stopped_instance_is_refused(client: Client, guests: Guests) -> None:
    instance = await guests.make(power="off", wait="launched")
    with pytest.raises(Refused) as caught:
        await run(client, instance.id, "true")
    assert caught.value.kind == "WrongState"
