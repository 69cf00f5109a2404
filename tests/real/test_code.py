"""Code in real guests: a Python session that outlasts calls, servers and copies; bash beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from polyvisor.client import Client, Refused
from polyvisor.wire.native import CodeRequest, CodeResult, CreateTemplate
from real.guests import Guests, lasting
from real.pythons import python_on
from serving import Server


@pytest.fixture(scope="module")
def image(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With Python, without IPython."""
    with python_on(base, tmp_path_factory.mktemp("python")) as name:
        yield name


@pytest.fixture(scope="module")
def vm(base: Server, image: str) -> Iterator[str]:
    """A guest for all tests here."""
    with lasting(base, image, memory="160M", env={"OWN": "1"}) as id:
        yield id


async def run(client: Client, vm: str, code: str, timeout: float = 90.0, **more: Any) -> CodeResult:
    """What it says and how it ends."""
    return await client.instances.code(vm, CodeRequest.model_validate({"code": code, "timeout": timeout} | more))


async def says(client: Client, vm: str, code: str, **more: Any) -> str:
    """What it says, having gone well."""
    ran = await run(client, vm, code, **more)
    assert (ran.stderr, ran.exit_code) == ("", 0), ran
    return ran.stdout


async def test_python_is_a_session_and_bash_is_none(client: Client, vm: str) -> None:
    assert await says(client, vm, "x = 42") == ""
    assert await says(client, vm, "x + 1") == "43\n"
    ran = await run(client, vm, "import os, sys\nos.system('echo out; echo err >&2')\nprint('é' * 700000)\n1 / 0")
    assert (ran.stdout, ran.exit_code) == ("out\n" + "é" * 700000 + "\n", 1)
    assert ran.stderr.startswith("err\n") and "ZeroDivisionError" in ran.stderr and ran.cpu_time > 0
    assert await says(client, vm, "os.getcwd(), os.environ['OWN']") == "('/root', '1')\n"
    bash = await run(client, vm, "echo $?; pwd; echo $OWN $MORE >&2; exit 3", language="bash", env={"MORE": "2"})
    assert (bash.stdout, bash.stderr, bash.exit_code) == ("0\n/root\n", "1 2\n", 3) and bash.cpu_time > 0
    assert await says(client, vm, "true\n" * 25_000 + "echo end", language="bash") == "end\n"


async def test_what_runs_behind_goes_on(client: Client, vm: str) -> None:
    loop = "(while sleep 0.1; do echo said || exit; done) & echo $! > /tmp/{}"
    await says(client, vm, loop.format("one"), language="bash")
    await says(client, vm, f"import subprocess\np = subprocess.Popen(['sh', '-c', {loop.format('two') + '; wait'!r}])")
    await asyncio.sleep(1.0)
    alive = "for name in one two; do kill $(cat /tmp/$name) && echo was there; done"
    assert await says(client, vm, alive, language="bash") == "was there\n" * 2


@pytest.mark.parametrize(("language", "code"), [("python", "import time\ntime.sleep(60)"), ("bash", "sleep 60")])
async def test_limits_are_kept(client: Client, vm: str, language: str, code: str) -> None:
    ran = await run(client, vm, code, 3.0, language=language)
    assert ran.exit_code == 124 and "the time limit of 3 s was reached" in ran.stderr and ran.execution_time < 3


async def test_a_killed_server_loses_the_call_and_not_the_state(base: Server, client: Client, vm: str) -> None:
    await says(client, vm, "y = 'kept'")
    call = asyncio.create_task(run(client, vm, "import time\ny = 'begun'\ntime.sleep(60)"))
    await asyncio.sleep(1.0)
    base.kill()
    with pytest.raises(Refused):
        await call
    base.start()
    async with base.client() as again:
        assert await says(again, vm, "y") == "'begun'\n"


async def test_copies_keep_the_state_and_draw_their_own_numbers(client: Client, guests: Guests, image: str) -> None:
    made = await client.templates.create(CreateTemplate(image=image, memory="161M", code=True))
    try:
        one, two = [await guests.boot(image, memory="161M", env={"WHO": who}) for who in ("one", "two")]
        assert one.origin == two.origin == made.id
        code = "import os, random\nos.environ['WHO'], random.random()"
        drawn = [await says(client, vm.id, code) for vm in (one, two)]
        assert [text[:6] for text in drawn] == ["('one'", "('two'"]
        await says(client, one.id, "random.seed(1)\nstate = 7")
        copy = await client.instances.fork(one.id, wait="ready")
        guests.also(copy.name)
        drawn += [await says(client, vm, "(state, random.random())[state - 6]") for vm in (copy.id, one.id)]
        assert len({text.split(" ")[-1] for text in drawn}) == 4
    finally:
        await client.templates.delete(made.id)


async def test_an_image_without_python_says_so(client: Client, guests: Guests) -> None:
    vm = await guests.boot()
    with pytest.raises(Refused) as refused:
        await run(client, vm.id, "1")
    assert refused.value.problem.kind == "Unsupported" and refused.value.problem.field == "language"
    assert await says(client, vm.id, "echo $0", language="bash") == "sh\n"
