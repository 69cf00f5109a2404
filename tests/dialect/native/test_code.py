"""Code that is run in an instance, over HTTP: what the answer says, what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from dialect.served import Served
from polyvisor.wire.native import CodeRequest

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vm(served: Served) -> str:
    """The id of a ready instance."""
    return str((await served.make(env={"OWN": "1"}))["id"])


async def run(served: Served, vm: str, code: str, **more: Any) -> tuple[str, str, int]:
    """What it says, and its exit code."""
    answer = await served.http.post(f"/api/v1/instances/{vm}/code", json={"code": code, **more})
    assert answer.status_code == 200, answer.text
    ran = answer.json()
    assert ran["execution_time"] >= 0 and ran["cpu_time"] >= 0
    return ran["stdout"], ran["stderr"], ran["exit_code"]


async def test_python_goes_on_where_the_last_call_has_left_it(served: Served, vm: str) -> None:
    assert await run(served, vm, "x = 42") == ("", "", 0)
    assert await run(served, vm, "print(x)") == ("42\n", "", 0)
    assert await run(served, vm, "x + 1") == ("43\n", "", 0)
    other = str((await served.make())["id"])
    out, err, code = await run(served, other, "print(x)")
    assert (out, code) == ("", 1) and "NameError" in err
    assert (await run(served, vm, "import sys\nexit(3)"))[2] == 3
    assert await run(served, vm, "print(x)") == ("42\n", "", 0)


async def test_bash_keeps_its_streams_apart_and_nothing_else(served: Served, vm: str) -> None:
    assert await run(served, vm, "echo $?; echo é >&2; exit 3", language="bash") == ("0\n", "é\n", 3)
    long = "true\n" * 30_000 + "echo end"
    assert await run(served, vm, long, language="bash") == ("end\n", "", 0)


async def test_variables_are_the_instances_and_the_calls(served: Served, vm: str) -> None:
    env = {"MORE": "2"}
    assert await run(served, vm, "echo $OWN $MORE", language="bash", env=env) == ("1 2\n", "", 0)
    assert await run(served, vm, "print(os.environ['OWN'], os.environ.get('MORE'))", env=env) == ("1 2\n", "", 0)
    assert await run(served, vm, "print(os.environ.get('MORE'))") == ("None\n", "", 0)


async def test_a_megabyte_comes_through_whole(served: Served, vm: str) -> None:
    out, err, code = await run(served, vm, "print('é' * 2000000)")
    assert (out == "é" * 2000000 + "\n", err, code) == (True, "", 0)


@pytest.mark.parametrize(("language", "code"), [("python", "import time\ntime.sleep(60)"), ("bash", "sleep 60")])
async def test_the_time_limit_is_told_by_the_answer(served: Served, vm: str, language: str, code: str) -> None:
    out, err, ended = await run(served, vm, code, language=language, timeout=0.5)
    assert (out, ended) == ("", 124) and "the time limit of 0.5 s was reached" in err


async def test_calls_take_turns(served: Served, vm: str) -> None:
    await run(served, vm, "n = 0")
    await asyncio.gather(*(run(served, vm, "n = n + 1") for _ in range(10)))
    assert await run(served, vm, "n") == ("10\n", "", 0)


async def test_who_waits_for_his_turn_too_long_is_told_so(served: Served, vm: str) -> None:
    first = asyncio.create_task(run(served, vm, "import time\ntime.sleep(2)"))
    await asyncio.sleep(0.2)
    out, err, code = await run(served, vm, "print(1)", timeout=0.5)
    assert (out, code) == ("", 124) and "no answer" in err
    assert (await first)[2] == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "code"),
        ({"code": "a\0b"}, "code"),
        ({"code": "1", "language": "perl"}, "language"),
        ({"code": "1", "timeout": 0}, "timeout"),
        ({"code": "1", "env": {"a b": "1"}}, "env"),
    ],
)
async def test_bad_requests_name_the_field(served: Served, vm: str, body: dict[str, Any], field: str) -> None:
    answer = await served.http.post(f"/api/v1/instances/{vm}/code", json=body)
    assert answer.status_code in (400, 422) and field in answer.json()["field"], answer.text


async def test_it_takes_the_right_to_interact(served: Served, vm: str) -> None:
    answer = await served.http.post("/api/v1/instances/nonesuch/code", json={"code": "1"})
    assert answer.status_code == 404


async def test_an_instance_that_does_not_run_is_said_to(served: Served) -> None:
    off = str((await served.make(power="off"))["id"])
    answer = await served.http.post(f"/api/v1/instances/{off}/code", json={"code": "1"})
    assert (answer.status_code, answer.json()["kind"]) == (409, "WrongState"), answer.text


async def test_our_client_runs_code(served: Served, vm: str) -> None:
    async with served.client() as client:
        ran = await client.instances.code(vm, CodeRequest(code="print('hi')"))
    assert (ran.stdout, ran.stderr, ran.exit_code) == ("hi\n", "", 0)


async def test_a_template_with_a_session_is_made(served: Served) -> None:
    body = {"image": "busybox", "memory": "98M", "disk": "64M", "code": True}
    answer = await served.http.post("/api/v1/templates", json=body)
    assert answer.status_code == 201, answer.text
    copy = str((await served.make(memory="98M", disk="64M"))["id"])
    assert await run(served, copy, "print(1)") == ("1\n", "", 0)
    assert (await served.http.delete(f"/api/v1/templates/{answer.json()['id']}")).status_code == 204
