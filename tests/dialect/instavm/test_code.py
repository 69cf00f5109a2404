"""Code and files, by upstream's own client where it has a say (instavm.md §1.6, §1.7, checks 1 to 12)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
import requests
from instavm import AuthenticationError, InstaVM, InstaVMError, SessionError

from dialect.instavm.conftest import Caller, Served

pytestmark = pytest.mark.asyncio(loop_scope="session")
T = TypeVar("T")


async def away(work: Callable[[], T]) -> T:
    """What a client that blocks gives."""
    return await asyncio.to_thread(work)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No certificates of this machine's own."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest_asyncio.fixture(loop_scope="session")
async def sdk(served: Served) -> AsyncIterator[InstaVM]:
    """Upstream's client, with a session."""
    yield await away(lambda: InstaVM(served.key, base_url=served.url))


async def test_the_sdks_first_use_makes_the_vm(sdk: InstaVM, root: Caller) -> None:
    assert not await away(sdk.is_session_active)
    told = await away(lambda: sdk.execute("echo hi", language="bash"))
    assert told.keys() >= {"stdout", "stderr", "execution_time", "cpu_time", "exit_code"}
    assert (told["stdout"], told["stderr"], told["exit_code"]) == ("hi\n", "", 0)
    assert isinstance(told["execution_time"], float)
    assert isinstance(told["cpu_time"], float)
    assert await away(sdk.is_session_active)
    status = await away(sdk.get_session_status)
    assert (status["vm_status"], status["vm_alive"]) == ("active", True)
    told = await away(lambda: sdk.execute("exit 3", language="bash"))
    assert told["exit_code"] == 3
    killed = await away(sdk.kill)
    assert killed["vm_id"] == status["vm_id"]
    assert sdk.session_id is None
    sdk.session_id = status["session_id"]
    assert (await away(sdk.get_session_status))["vm_status"] == "killed"
    with pytest.raises(SessionError, match="404"):
        await away(sdk.kill)
    again = await away(lambda: sdk.execute("echo again", language="bash"))
    assert again["stdout"] == "again\n"
    assert (await away(sdk.get_session_status))["vm_id"] != status["vm_id"]


async def test_the_vm_of_a_create_is_used_by_its_session(sdk: InstaVM) -> None:
    vm = await away(lambda: sdk.vms.create(wait=True, metadata={"a": "b"}, env={"GIVEN": "here"}))
    sdk.session_id = vm["session_id"]
    assert "GIVEN=here" in (await away(lambda: sdk.execute("env", language="bash")))["stdout"]
    await away(lambda: sdk.vms.stage_env(vm["vm_id"], {"LATER": "too"}))
    assert "LATER=too" in (await away(lambda: sdk.execute("env", language="bash")))["stdout"]
    assert (await away(sdk.get_session_status))["vm_id"] == vm["vm_id"]
    assert vm["vm_id"] in [one["vm_id"] for one in await away(sdk.vms.list)]
    assert (await away(lambda: sdk.vms.delete(vm["vm_id"])))["status"] == "terminated"
    assert vm["vm_id"] not in [one["vm_id"] for one in await away(sdk.vms.list)]
    assert vm["vm_id"] in [one["vm_id"] for one in await away(sdk.vms.list_all_records)]


async def test_two_first_uses_at_once_make_one_vm(sdk: InstaVM, root: Caller) -> None:
    await asyncio.gather(*(away(lambda: sdk.execute("echo hi", language="bash")) for _ in range(5)))
    found = [one for one in await root.ok("GET /v1/vms/") if one["session_id"] == sdk.session_id]
    assert len(found) == 1


async def test_what_a_wrong_key_or_name_raises(served: Served, sdk: InstaVM) -> None:
    with pytest.raises(AuthenticationError):
        await away(lambda: InstaVM("wrong", base_url=served.url))
    with pytest.raises(requests.HTTPError, match="404"):
        await away(lambda: sdk.vms.get("vmid-none"))
    with pytest.raises(requests.HTTPError, match="422"):
        await away(lambda: sdk.vms.create(vcpu_count="x"))


async def test_what_is_wrong_with_a_call_is_named(root: Caller, sdk: InstaVM) -> None:
    session = sdk.session_id
    await root.wrong("command", "POST /execute", {"session_id": session})
    await root.wrong("session_id", "POST /execute", {"command": "x"})
    await root.wrong("language", "POST /execute", {"command": "x", "session_id": session, "language": "cobol"})
    await root.wrong("timeout", "POST /execute", {"command": "x", "session_id": session, "timeout": 0})
    await root.wrong("command", "POST /execute", {"command": "a\0b", "session_id": session})
    await root.refused(404, "POST /execute", {"command": "x", "session_id": "7d7b6c0a-0000-4000-8000-000000000000"})
    assert not await away(sdk.is_session_active)  # nothing was made
    answer = await root.http.post("/execute", json={"command": "x", "session_id": session})
    assert answer.status_code == 401
    body = {"command": "echo by body", "language": "bash", "session_id": session, "api_key": root.key}
    assert (await root.http.post("/execute", json=body)).json()["stdout"] == "by body\n"
    told = await root.ok("POST /execute", {"code": "echo code", "language": "bash", "session_id": session})
    assert told["stdout"] == "code\n"


async def test_what_is_executed_while_nobody_waits(sdk: InstaVM, root: Caller, tenant: Caller) -> None:
    task = (await away(lambda: sdk.execute_async("sleep 0.3; echo done", language="bash")))["task_id"]
    told = await root.ok(f"GET /v1/executions/{task}")
    assert (told["is_complete"], told["serialized_stdout"]) == (False, "")
    result = await away(lambda: sdk.get_task_result(task, timeout=20))
    assert result["stdout"] == "done\n"
    assert task in [one["task_id"] for one in await root.ok("GET /v1/executions/")]
    await tenant.refused(404, f"GET /v1/executions/{task}")
    assert await tenant.ok("GET /v1/executions/") == []
    await root.refused(404, "GET /v1/executions/none")
    slow = (await away(lambda: sdk.execute_async("sleep 5", language="bash")))["task_id"]
    with pytest.raises(TimeoutError):
        await away(lambda: sdk.get_task_result(slow, timeout=1))


async def test_one_that_takes_too_long_is_answered_before_its_client_gives_up(sdk: InstaVM) -> None:
    await away(lambda: sdk.execute("true", language="bash"))
    told = await away(lambda: sdk.execute("sleep 60", language="bash", timeout=3))
    assert told["exit_code"] == 124
    assert "time limit" in told["stderr"]


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
async def test_files_go_there_and_back(sdk: InstaVM, tmp_path: Path, size: int, trusting: None) -> None:
    data = os.urandom(size)
    (tmp_path / "here").write_bytes(data)
    told = await away(lambda: sdk.upload_file(str(tmp_path / "here"), "/root/deep/there"))
    assert (told["remote_path"], told["size"]) == ("/root/deep/there", size)
    await away(lambda: sdk.download_file("/root/deep/there", str(tmp_path / "back")))
    assert (tmp_path / "back").read_bytes() == data
    into = await away(lambda: sdk.upload_file(str(tmp_path / "here"), "/root/deep/"))
    assert into["remote_path"] == "/root/deep/here"
    assert (await away(lambda: sdk.upload_file(str(tmp_path / "here"), "plain")))["remote_path"] == "/app/plain"


async def test_what_is_wrong_with_a_file(sdk: InstaVM, root: Caller, tmp_path: Path) -> None:
    with pytest.raises(InstaVMError, match="404"):
        await away(lambda: sdk.download_file("/nowhere"))
    headers = {"X-API-Key": root.key}
    form: dict[str, Any] = {"session_id": sdk.session_id}
    answer = await root.http.post("/download", data=form, headers=headers)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "filename"])
    answer = await root.http.post("/upload", data=form | {"remote_path": "/x"}, headers=headers)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "file"])
    answer = await root.http.post("/download", data=form | {"filename": "/"}, headers=headers)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "filename"])
