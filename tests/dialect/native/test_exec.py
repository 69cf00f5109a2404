"""Commands and consoles over WebSocket: what goes in, what comes out, what is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect

from dialect.served import Served
from polyvisor.client import Client, Refused
from polyvisor.wire.native import ExecRequest

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vm(served: Served) -> str:
    """The id of a ready instance."""
    return str((await served.make())["id"])


@pytest_asyncio.fixture(loop_scope="session")
async def client(served: Served) -> AsyncIterator[Client]:
    """Our client."""
    async with served.client() as client:
        yield client


@asynccontextmanager
async def socket(served: Served, path: str) -> AsyncIterator[ClientConnection]:
    """A bare socket."""
    headers = {"X-API-Key": served.key}
    async with connect(
        f"ws{served.url[4:]}/api/v1/instances/{path}", additional_headers=headers, proxy=None
    ) as open_one:
        yield open_one


async def output(client: Client, vm: str, *argv: str, stdin: bytes | None = None) -> tuple[bytes, bytes, int | None]:
    """What a command says on stdout and stderr, and its code."""
    said = {1: b"", 2: b""}
    async with client.instances.exec(vm, ExecRequest(argv=list(argv))) as process:
        if stdin is not None:
            await process.write(stdin)
        await process.eof()
        async for piece in process:
            said[piece.channel] += piece.data
        return said[1], said[2], (await process.result()).code


async def test_stdout_and_stderr_stay_apart_and_the_code_comes_through(client: Client, vm: str) -> None:
    assert await output(client, vm, "sh", "-c", "echo out; echo err >&2; exit 3") == (b"out\n", b"err\n", 3)
    assert (await output(client, vm, "nonesuch"))[2] == 127


async def test_stdin_goes_through_until_its_end(client: Client, vm: str) -> None:
    data = bytes(range(256)) * 1000
    assert await output(client, vm, "cat", stdin=data) == (data, b"", 0)


async def test_a_signal_ends_it(client: Client, vm: str) -> None:
    async with client.instances.exec(vm, ExecRequest(argv=["sleep", "60"])) as process:
        await process.signal(15)
        result = await process.result()
    assert (result.code, result.signal, result.timed_out) == (None, 15, False)


async def test_its_time_limit_ends_it(client: Client, vm: str) -> None:
    async with client.instances.exec(vm, ExecRequest(argv=["sleep", "60"], timeout=0.05)) as process:
        assert (await process.result()).timed_out


async def test_a_terminal_has_a_size_and_gets_another(client: Client, vm: str) -> None:
    request = ExecRequest(argv=["stty"], tty=True, rows=11, cols=22)
    async with client.instances.exec(vm, request) as process:
        assert b"".join([piece.data async for piece in process]) == b"11 22\n"
    request = ExecRequest(argv=["sh", "-c", "cat; stty"], tty=True)
    async with client.instances.exec(vm, request) as process:
        await process.resize(33, 44)
        await process.eof()
        assert b"".join([piece.data async for piece in process]) == b"33 44\n"


async def test_environment_reaches_it(client: Client, vm: str) -> None:
    async with client.instances.exec(vm, ExecRequest(argv=["env"], env={"A": "b=c\nd"})) as process:
        assert b"A=b=c\nd\n" in b"".join([piece.data async for piece in process])


@pytest.mark.parametrize(
    ("first", "field"),
    [
        ("not JSON", "body"), ("[]", "body"), ("{}", "argv"), ('{"argv": []}', "argv"), ('{"argv": "ls"}', "argv"),
        ('{"argv": [1]}', "argv.0"), ('{"argv": ["a\\u0000"]}', "argv.0"), ('{"argv": ["a"], "rows": 0}', "rows"),
        ('{"argv": ["a"], "timeout": NaN}', "timeout"), ('{"argv": ["a"], "timeout": -1}', "timeout"),
        ('{"argv": ["a"], "colour": 1}', "colour"), ('{"argv": ["a"], "env": {"A=": ""}}', "env.A="),
        (b"\0binary", "body"), (b"", "body"),
    ],
)  # fmt: skip
async def test_a_wrong_request_is_answered_with_what_is_wrong(
    served: Served, vm: str, first: str | bytes, field: str
) -> None:
    async with socket(served, f"{vm}/exec") as raw:
        await raw.send(first)
        said = json.loads(await raw.recv())
        assert (said["kind"], said["field"]) == ("Invalid", field)
        await raw.wait_closed()
        assert raw.close_code == 1000


@pytest.mark.parametrize(
    "message",
    [
        "not JSON", "[]", "null", '{"resize": 1}', '{"resize": [1]}', '{"resize": ["a", "b"]}', '{"resize": [0, 0]}',
        '{"signal": "TERM"}', '{"signal": 0}', '{"signal": 1e9}', '{"eof": "yes"}', '{"other": 1}', b"", b"\x01data",
        b"\xffdata",
    ],
)  # fmt: skip
async def test_a_wrong_message_to_a_command_ends_it_with_what_is_wrong(
    served: Served, vm: str, message: str | bytes
) -> None:
    async with socket(served, f"{vm}/exec") as raw:
        await raw.send('{"argv": ["cat"]}')
        await raw.send(message)
        said = json.loads(await raw.recv())
        assert said["kind"] == "Invalid"
        await raw.wait_closed()


async def test_a_client_that_goes_away_takes_its_command_along(served: Served, vm: str) -> None:
    others = asyncio.all_tasks()  # workloads of other tests' machines among them
    async with socket(served, f"{vm}/exec") as raw:
        await raw.send('{"argv": ["cat"]}')
        await raw.send(b"\0x")
        assert await raw.recv() == b"\x01x"
        raw.transport.abort()
    async with asyncio.timeout(5):
        while any("FakeProcess" in str(task.get_coro()) for task in asyncio.all_tasks() - others):
            await asyncio.sleep(0.01)


async def test_a_command_needs_a_running_instance(served: Served, client: Client) -> None:
    stopped = await served.make(power="off")
    with pytest.raises(Refused) as refused:
        await output(client, stopped["id"], "true")
    assert refused.value.kind == "WrongState"


async def test_a_console_shows_what_was_and_takes_what_is_typed(served: Served, client: Client) -> None:
    machine = await served.make()
    async with client.instances.console(machine["id"]) as console:
        heard = b""
        lines = aiter(console)
        await console.write(b"typed\n")
        while b"typed\n" not in heard:
            heard += await anext(lines)
        assert heard.startswith(b"fake console\n")
        await client.instances.stop(machine["id"], force=True)
        assert [piece async for piece in lines] == []


async def test_a_console_takes_no_text(served: Served, vm: str) -> None:
    async with socket(served, f"{vm}/console") as raw:
        await raw.send("text")
        async for message in raw:
            if isinstance(message, str):
                assert json.loads(message)["kind"] == "Invalid"
                return
    raise AssertionError("nothing was said")
