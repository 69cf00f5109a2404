"""What upstream's client is to find on real machines beside `test_instavm`: terminals, other tenants, limits, what is
told of what happened (instavm.md §5: 5, 7, 20, 24, 29, 30)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
import requests
from instavm import AuthenticationError, ForbiddenError, InstaVM, InstaVMError, NetworkError, RateLimitError
from instavm.webhooks import WebhookVerificationError, compute_signature, verify
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from dialect.instavm.receiver import Got, Receiver, receiving
from polyvisor.model.identity import Quotas
from real.conftest import finish, share
from real.guests import make_boot_files
from real.test_image_sources import tenant
from real.test_instavm import client, sh, vm_of
from real.verges import eventually
from serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trusting")]
SMALL: dict[str, Any] = {"memory_mb": 128, "vcpu_count": 1}
LONGEST = 4000
CROWD, PLACES = 100, 4


@pytest.fixture(scope="module")
def server(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of the tiny image, whose VMs live for so long at most."""
    folder = tmp_path_factory.mktemp("checks")
    make_boot_files(base)
    share(base.data, folder / "data")
    settings = folder / "settings.toml"
    settings.write_text(f'[instavm]\nimage = "busybox"\nmax_lifetime = "{LONGEST}s"\nwebhooks_private = "true"\n')
    server = Server(folder / "data", "--config", str(settings)).start()
    yield server
    finish(server)


@pytest.fixture(scope="module")
def box(server: Server) -> tuple[InstaVM, str]:
    """A client and the VM of its session."""
    sdk = client(server)
    return sdk, vm_of(sdk, **SMALL, metadata={"k": "v", "n": {"a": 1}})


async def stranger(server: Server, **quotas: int) -> InstaVM:
    """Upstream's client of somebody with a project of his own, which may hold so much."""
    async with await tenant(server, Quotas(**quotas)) as http:
        return await asyncio.to_thread(InstaVM, http.headers["X-API-Key"], base_url=server.facts["url"])


def status_of(work: Callable[[], object]) -> int:
    """That of the refusal."""
    with pytest.raises(requests.HTTPError) as caught:
        work()
    assert caught.value.response is not None and "detail" in caught.value.response.json()
    return caught.value.response.status_code


# -- VMs and who may see them ------------------------------------------------------------------------------------------


def test_a_vm_is_made_listed_and_ended(server: Server, box: tuple[InstaVM, str]) -> None:
    sdk = client(server)
    made = sdk.vms.create(wait=True, vm_lifetime_seconds=3600, metadata={"k": "v", "n": {"a": 2}}, **SMALL)
    assert (made["status"], made["env_status"], bool(made["session_id"])) == ("active", "none", True)
    vm, sdk.session_id = made["vm_id"], made["session_id"]
    sh(sdk, "echo mine > /root/mine")
    status = sdk.get_session_status()
    assert (status["vm_id"], status["vm_status"], sdk.is_session_active()) == (vm, "active", True)
    assert 3000 < status["expires_in_seconds"] <= 3600
    assert sh(sdk, "cat /root/mine") == "mine\n"

    mine = {"k": "v"}
    both = {one["sandbox_id"] for one in sdk.list_sandboxes(metadata=mine)}
    assert {one["vm_id"] for one in sdk.list_sandboxes(metadata=mine)} == {vm, box[1]}
    (first,) = sdk.list_sandboxes(metadata=mine, limit=1)
    assert first["sandbox_id"] in both
    assert first.keys() >= {"sandbox_id", "template_id", "name", "metadata", "started_at", "end_at", "status"}
    assert [one["vm_id"] for one in sdk.list_sandboxes(metadata={"n": {"a": 2}}, limit=5)] == [vm]
    for limit in (0, 1001):
        with pytest.raises(requests.HTTPError, match="422"):
            sdk._request_json("GET", "/v1/sessions/sandboxes", params={"limit": limit})

    (listed,) = [one for one in sdk.vms.list() if one["vm_id"] == vm]
    assert listed == sdk.vms.get(vm) and listed["created_at"] and "ssh_host" in listed
    assert sdk.vms.delete(vm)["status"] == "terminated"
    assert vm not in {one["vm_id"] for one in sdk.vms.list()}
    assert {one["vm_id"]: one["status"] for one in sdk.vms.list_all_records()}[vm] == "terminated"
    status = sdk.get_session_status()
    assert (status["vm_alive"], status["vm_status"], status["expires_in_seconds"]) == (False, "killed", 0)


async def test_another_tenants_vm_is_none(server: Server, box: tuple[InstaVM, str]) -> None:
    sdk, vm = box
    other = await stranger(server)

    def tried() -> None:
        calls: tuple[Callable[[], object], ...] = (
            lambda: other.vms.get(vm), lambda: other.vms.update(vm, snapshot_on_terminate=True),
            lambda: other.vms.delete(vm), lambda: other.vms.suspend(vm), lambda: other.vms.resume(vm),
            lambda: other.vms.clone(vm), lambda: other.vms.snapshot(vm), lambda: other.vms.stage_env(vm, {"A": "b"}),
            lambda: other.vms.list_volumes(vm), lambda: other.pty.create_for_vm(vm),
            lambda: other.shares.create(8000, vm_id=vm), lambda: other.pty.create(sdk.session_id),
            lambda: other.vms.create(session_id=sdk.session_id),
        )  # fmt: skip
        for work in calls:
            assert status_of(work) == 404
        mine, other.session_id = other.session_id, sdk.session_id
        uses: tuple[Callable[[], object], ...] = (
            lambda: other.execute("true", language="bash"), lambda: other.get_session_status(),
            lambda: other.download_file("/etc/passwd"), lambda: other.set_vm_egress(vm), lambda: other.kill(),
        )  # fmt: skip
        for using in uses:
            with pytest.raises((InstaVMError, requests.HTTPError)):
                using()
        other.session_id = mine
        assert other.vms.list() == other.vms.list_all_records() == other.list_sandboxes() == []
        assert other.audit.events(vm_id=vm)["items"] == []

    await asyncio.to_thread(tried)
    assert (sdk.vms.get(vm)["status"], sh(sdk, "echo here")) == ("active", "here\n")
    with pytest.raises(AuthenticationError):
        InstaVM("instavm_sk_wrong", base_url=server.facts["url"])


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_lifetime_has_a_limit(server: Server, box: tuple[InstaVM, str]) -> None:
    sdk, vm = box
    words = f"VM lifetime cannot exceed {LONGEST}s"
    calls: tuple[Callable[[], object], ...] = (
        lambda: sdk.vms.create(vm_lifetime_seconds=LONGEST + 1, **SMALL),
        lambda: client(server, timeout=LONGEST + 1),  # which it asks for as its session's lifetime
        lambda: sdk._request_json("PATCH", f"/v1/vms/{vm}", json_data={"vm_lifetime_seconds": LONGEST + 1}),
    )
    for work in calls:
        with pytest.raises(ForbiddenError, match=words):
            work()


async def test_of_a_crowd_as_many_are_served_as_may_be(server: Server) -> None:
    crowd = await stranger(server, instances=PLACES)

    def create(_: int) -> dict[str, Any] | InstaVMError:
        try:
            return dict(crowd.vms.create(wait=True, **SMALL))
        except (RateLimitError, ForbiddenError) as refusal:  # any other answer fails the test
            return refusal

    with ThreadPoolExecutor(CROWD) as pool:
        answers = await asyncio.gather(*(asyncio.to_thread(pool.submit(create, n).result) for n in range(CROWD)))
    made = [one for one in answers if isinstance(one, dict)]
    refused = [one for one in answers if isinstance(one, RateLimitError)]
    assert (len(made), len(refused)) == (PLACES, CROWD - PLACES)
    assert {one["status"] for one in made} == {"active"} and all("instances" in str(one) for one in refused)

    def used() -> None:
        assert {one["vm_id"] for one in crowd.vms.list_all_records()} == {one["vm_id"] for one in made}
        for one in made:
            crowd.session_id = one["session_id"]
            assert sh(crowd, "echo $((6 * 7))") == "42\n"
            crowd.vms.delete(one["vm_id"])
        crowd.vms.delete(crowd.vms.create(**SMALL)["vm_id"])  # there is room again

    await asyncio.to_thread(used)


def test_a_server_that_is_slow_says_so_before_the_client_hangs_up(server: Server) -> None:
    sdk = client(server, memory_mb=128, cpu_count=1)
    with pytest.raises(NetworkError, match="504 Gateway Timeout"):  # of the server, in a second
        sdk.execute("echo first", language="bash", timeout=1)
    assert sh(sdk, "echo second", timeout=200) == "second\n"
    for timeout in (2, 4):
        ran = sdk.execute("echo begun; sleep 100", language="bash", timeout=timeout)
        assert (ran["stdout"], ran["exit_code"]) == ("begun\n", 124) and "time limit" in ran["stderr"]
    assert sh(sdk, "pidof sleep | wc -w") == "1\n"  # the VM's own
    sdk.kill()


# -- terminals ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def joined(url: str) -> AsyncIterator[ClientConnection]:
    """A connection as the command line makes it."""
    async with asyncio.timeout(100), connect(url, proxy=None, open_timeout=60) as socket:
        yield socket


async def heard(socket: ClientConnection, word: bytes) -> bytes:
    """What is said up to that."""
    said = b""
    while word not in said:
        piece = await socket.recv()
        assert isinstance(piece, bytes), (piece, said)
        said += piece
    return said


async def closed(url: str) -> int:
    """The code with which whoever comes there is sent away."""
    async with joined(url) as socket:
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


async def test_a_terminal_from_its_begin_to_its_end(box: tuple[InstaVM, str]) -> None:
    sdk, vm = box
    ours = "pty-0123456789ab"
    pty = await asyncio.to_thread(sdk.pty.create_for_vm, vm, 91, 31, pty_id=ours)
    assert pty["session_id"] == ours
    url = sdk.pty.ws_url_for_vm(vm, ours)
    assert await closed(url.replace(quote(str(sdk.api_key)), "wrong")) == 4401
    assert await closed(sdk.pty.ws_url_for_vm(vm, "pty-none")) == 4500
    async with joined(url) as socket:
        await socket.send(b"echo is$((40+2))\n")
        said = await heard(socket, b"is42")
        assert b"echo is$((40+2))" in said  # what is typed is shown
        await socket.send(b"stty size\n")
        await heard(socket, b"31 91")
        await socket.send(json.dumps({"type": "resize", "cols": 120, "rows": 40}))
        await socket.send(b"until stty size | grep '40 120'; do :; done\n")
        await heard(socket, b"\r\n40 120")
        (told,) = [one for one in await asyncio.to_thread(sdk.pty.list_for_vm, vm) if one["session_id"] == ours]
        assert (told["alive"], told["exit_code"]) == (True, None)
    told = await asyncio.to_thread(sdk.pty.resize_for_vm, vm, ours, 77, 22)  # nobody is connected, and it goes on
    async with joined(url) as socket:
        await socket.send(b"stty size\n")
        await heard(socket, b"22 77")
        await socket.send(b"exit 0\n")
        while isinstance(last := await socket.recv(), bytes):
            pass
        assert json.loads(last) == {"type": "exit", "exit_code": 0}
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1000
    told = await asyncio.to_thread(sdk.pty.get_for_vm, vm, ours)
    assert (told["alive"], told["exit_code"]) == (False, 0)


async def test_a_terminal_of_a_session_is_killed(box: tuple[InstaVM, str]) -> None:
    sdk, _ = box
    session = str(sdk.session_id)
    made = await asyncio.to_thread(sdk.pty.create, session, login_command="echo up && sleep 4321")
    pty = made["session_id"]
    async with joined(sdk.pty.ws_url(session, pty)) as socket:
        await heard(socket, b"up")
        assert pty in {one["session_id"] for one in await asyncio.to_thread(sdk.pty.list, session)}
        assert (await asyncio.to_thread(sdk.pty.get, session, pty))["alive"] is True
        await asyncio.to_thread(sdk.pty.resize, session, pty, 100, 30)
        await asyncio.to_thread(sdk.pty.kill, session, pty)
        with pytest.raises(ConnectionClosed):
            while True:
                await socket.recv()
    assert await asyncio.to_thread(status_of, lambda: sdk.pty.get(session, pty)) == 404
    assert await closed(sdk.pty.ws_url(session, pty)) == 4500
    await asyncio.to_thread(
        eventually, lambda: "4321" not in sh(sdk, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"), 30
    )


# -- what is told of what happened -------------------------------------------------------------------------------------


async def told(receiver: Receiver, count: int, secret: str) -> list[dict[str, Any]]:
    """So many requests, each signed with that."""
    return [one.verified(secret) for one in await receiver.some(count)]


async def settled(sdk: InstaVM, endpoint: str, count: int) -> list[dict[str, Any]]:
    """So many deliveries, newest first, once none waits."""

    def look() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = sdk.webhooks.list_deliveries(endpoint)["items"]
        return found if len(found) == count and all(one["status"] != "pending" for one in found) else []

    found: list[dict[str, Any]] = await asyncio.to_thread(eventually, look, 60)
    return found


async def test_webhooks_tell_what_becomes_of_a_vm(server: Server) -> None:
    sdk = await asyncio.to_thread(client, server)
    hooks, wanted = sdk.webhooks, ["vm.created", "vm.suspended", "vm.resumed", "vm.terminated", "snapshot.created"]
    async with receiving() as receiver:
        hook = await asyncio.to_thread(hooks.create_endpoint, receiver.url, "of the test", wanted, 5, 3)
        secret = hook["secret"]
        receiver.answers += [503, 500]  # it is tried again until it is taken
        vm = await asyncio.to_thread(vm_of, sdk, **SMALL)
        first, *again = await receiver.some(3)
        assert {one.body for one in again} == {first.body}
        assert first.verified(secret)["event_type"] == "vm.created"
        refused(first, secret)
        await asyncio.to_thread(sdk.vms.snapshot, vm, name="told")
        await asyncio.to_thread(sdk.vms.suspend, vm)
        heard = await told(receiver, 5, secret)
        assert [one["event_type"] for one in heard[3:]] == ["snapshot.created", "vm.suspended"]

        turned = (await asyncio.to_thread(hooks.rotate_secret, hook["id"]))["secret"]
        resumed = (await asyncio.to_thread(sdk.vms.resume, vm))["vm_id"]
        await asyncio.to_thread(sdk.vms.delete, resumed)
        *_, up, gone = await receiver.some(7)
        assert [one.verified(turned)["event_type"] for one in (up, gone)] == ["vm.resumed", "vm.terminated"]
        with pytest.raises(WebhookVerificationError):
            up.verified(secret)
        data = gone.verified(turned)["data"]
        assert (data["vm_id"], data["session_id"]) == (resumed, sdk.session_id)

        sent = await settled(sdk, hook["id"], 5)
        assert [one["event_type"] for one in reversed(sent)] == [
            "vm.created", "snapshot.created", "vm.suspended", "vm.resumed", "vm.terminated",
        ]  # fmt: skip
        assert {one["status"] for one in sent} == {"delivered"} and sent[-1]["attempt_count"] == 3
        replay = await asyncio.to_thread(hooks.replay_delivery, sent[-1]["id"])
        (*_, repeated) = await receiver.some(8)
        assert (repeated.body, replay["event_type"]) == (first.body, "vm.created")
        assert repeated.verified(turned)["id"] == first.verified(secret)["id"]
        await gives_up(sdk, hook["id"], receiver)
        await asyncio.to_thread(hooks.delete_endpoint, hook["id"])
    await asyncio.to_thread(audited, sdk, vm, sdk.session_id)


async def gives_up(sdk: InstaVM, hook: str, receiver: Receiver) -> None:
    """What is never taken has failed, and is there to be sent once more."""
    hooks = sdk.webhooks
    await settled(sdk, hook, 6)
    await asyncio.to_thread(hooks.update_endpoint, hook, max_retries=1)
    receiver.answers += [500, 302]
    sent = await asyncio.to_thread(hooks.send_test_event, hook)
    failed = (await settled(sdk, hook, 7))[0]
    assert (failed["id"], failed["status"], failed["attempt_count"]) == (sent["id"], "failed", 2)
    (only,) = (await asyncio.to_thread(hooks.list_deliveries, hook, "failed"))["items"]
    assert only == failed
    await asyncio.to_thread(hooks.replay_delivery, failed["id"])
    assert (await settled(sdk, hook, 8))[0]["status"] == "delivered"
    first = await asyncio.to_thread(hooks.list_deliveries, hook, limit=5)
    rest = await asyncio.to_thread(hooks.list_deliveries, hook, cursor=first["next_cursor"], limit=5)
    assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (5, 3, None)


def refused(got: Got, secret: str) -> None:
    """Upstream's own check takes no other body, no other secret and no old time."""
    for body, by in ((got.body + b" ", secret), (got.body, secret + "x")):
        with pytest.raises(WebhookVerificationError):
            verify(got.headers, body, by)
    then = int(time.time()) - 3600
    old = {"InstaVM-Signature": f"t={then},v1={compute_signature(secret, then, got.body)}"}
    with pytest.raises(WebhookVerificationError):
        verify(old, got.body, secret)


def audited(sdk: InstaVM, vm: str, session: str) -> None:
    """The log has all of it, page by page, newest first."""
    whole = sdk.audit.events(session_id=session, limit=200)["items"]
    kinds = [one["event_type"] for one in whole]
    ends = ["vm.created", "vm.suspended", "vm.resumed", "vm.terminated"]
    assert [one for one in reversed(kinds) if one in ends] == ends
    assert sdk.audit.events(vm_id=vm, limit=200)["items"] == whole
    walked, cursor = [], None
    while True:
        page = sdk.audit.events(session_id=session, limit=2, cursor=cursor)
        walked += page["items"]
        assert len(page["items"]) <= 2
        if (cursor := page["next_cursor"]) is None:
            break
    assert walked == whole
    assert sdk.audit.get_event(whole[0]["id"]) == whole[0]
    only = sdk.audit.events(event_type="vm.suspended", status="success", session_id=session)["items"]
    assert [one["event_type"] for one in only] == ["vm.suspended"]
    assert set(kinds) <= {kind for kinds in sdk.audit.catalog()["catalog"].values() for kind in kinds}
