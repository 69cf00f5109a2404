"""A micro guest's life: boots, runs its workload, ends, and everything that power means."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import Any

import pytest

from polyvisor.client import Client, Refused
from polyvisor.wire.native import UpdateInstance
from real.guests import Guests, run, sh

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


async def logs(client: Client, key: str, **how: Any) -> list[tuple[str, bytes]]:
    """(stream, data) of every record."""
    return [(r.stream, base64.b64decode(r.data)) async for r in client.instances.logs(key, **how)]


async def test_a_workload_runs_and_its_exit_code_is_told(client: Client, guests: Guests) -> None:
    script = 'echo "$WHO in $PWD as $(id -u)"; echo err >&2; exit 3'
    vm = await guests.make(command=["sh", "-c", script], env={"WHO": "me"}, cwd="/var", user="65534")
    ended = await client.instances.wait(vm.id, ["ended"])
    assert ended.state == "stopped" and ended.exit is not None
    assert (ended.exit.code, ended.exit.reason) == (3, "exited")
    told = await logs(client, vm.id)
    assert next(stream for stream, _ in told) == "start" and told[-1][0] == "exit"
    assert b"".join(d for s, d in told if s == "stdout") == b"me in /var as 65534\n"
    assert b"".join(d for s, d in told if s == "stderr") == b"err\n"


async def test_a_workload_that_cannot_be_run_says_why(client: Client, guests: Guests) -> None:
    vm = await guests.make(command=["no-such-thing"])
    ended = await client.instances.wait(vm.id, ["ended"])
    assert ended.exit is not None and ended.exit.code == 127
    assert any(b"no-such-thing" in data for _, data in await logs(client, vm.id))


async def test_a_workload_ended_by_a_signal(client: Client, guests: Guests) -> None:
    vm = await guests.make(command=["sh", "-c", "kill -9 $$"])
    ended = await client.instances.wait(vm.id, ["ended"])
    assert ended.exit is not None and (ended.exit.code, ended.exit.signal) == (None, 9)


async def test_the_log_is_followed_to_the_end(client: Client, guests: Guests) -> None:
    vm = await guests.make(command=["sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done"])
    async with asyncio.timeout(60):
        told = await logs(client, vm.id, follow=True)
    assert b"".join(d for s, d in told if s == "stdout") == b"1\n2\n3\n4\n5\n"
    assert told[-1][0] == "exit"


async def test_a_stop_asks_and_the_workload_may_tidy_up(client: Client, guests: Guests) -> None:
    script = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done"
    vm = await guests.boot(command=["sh", "-c", script])
    async for record in client.instances.logs(vm.id, follow=True):
        if record.stream == "stdout":  # from here on it listens
            break
    await client.instances.stop(vm.id)
    stopped = await client.instances.get(vm.id)
    assert stopped.state == "stopped" and stopped.exit is not None and stopped.exit.code == 9
    assert ("stdout", b"bye\n") in await logs(client, vm.id)


async def test_a_workload_that_does_not_obey_is_ended_at_the_limit(client: Client, guests: Guests) -> None:
    vm = await guests.boot(command=["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    async with asyncio.timeout(20):
        await client.instances.stop(vm.id, grace=1)
    assert (await client.instances.get(vm.id)).state == "stopped"


async def test_power(client: Client, guests: Guests) -> None:
    """Stop, start, restart, reset, pause, resume: told by the guest's own boot id and by a file on its disk."""
    vm = await guests.boot()
    first = await sh(client, vm.id, f"echo kept > /kept; sync; {BOOT_ID}")
    paused = await client.instances.pause(vm.id)
    assert paused.state == "paused"
    resumed = await client.instances.resume(vm.id)
    assert resumed.state == "running" and await sh(client, vm.id, BOOT_ID) == first
    await client.instances.stop(vm.id, force=True)
    started = await client.instances.start(vm.id, wait="ready")
    assert (started.state, started.incarnation, started.address) == ("running", 2, vm.address)
    second = await sh(client, vm.id, BOOT_ID)
    await client.instances.restart(vm.id, wait="ready")
    third = await sh(client, vm.id, BOOT_ID)
    await client.instances.reset(vm.id)
    async with asyncio.timeout(60):
        while (ran := await run(client, vm.id, "sh", "-c", BOOT_ID)).out.decode().strip() == third:
            await asyncio.sleep(0.1)
    assert len({first, second, third, ran.out.decode().strip()}) == 4
    assert await sh(client, vm.id, "cat /kept") == "kept"


async def test_a_guest_that_powers_itself_off_has_ended(client: Client, guests: Guests) -> None:
    vm = await guests.boot()
    with contextlib.suppress(Refused):  # the command may go down with its guest
        await run(client, vm.id, "poweroff")
    ended = await client.instances.wait(vm.id, ["ended"])
    assert ended.exit is not None and (ended.exit.code, ended.exit.reason) == (None, "shutdown")


async def test_a_guest_that_reboots_itself_comes_back(client: Client, guests: Guests) -> None:
    vm = await guests.boot()
    before = await sh(client, vm.id, BOOT_ID)
    with pytest.raises(Refused) as caught:
        await run(client, vm.id, "sh", "-c", "reboot; sleep 60")
    assert caught.value.kind == "Unavailable"
    after = before
    async with asyncio.timeout(60):
        while after == before:
            after = await sh(client, vm.id, BOOT_ID)
    assert (await client.instances.get(vm.id)).incarnation == 1


async def test_a_lifetime_ends(client: Client, guests: Guests) -> None:
    vm = await guests.boot()
    await client.instances.update(vm.id, UpdateInstance(lifetime=0.1))
    with pytest.raises(Refused) as caught:
        await client.instances.wait(vm.id, ["failed"], timeout=30)
    assert caught.value.kind == "NotFound"


async def test_a_restart_policy_starts_a_failed_workload_again(client: Client, guests: Guests) -> None:
    policy = {"mode": "on-failure", "attempts": 1, "backoff": 0.2}
    vm = await guests.make(command=["sh", "-c", "echo run >> /runs; [ $(wc -l < /runs) -ge 2 ]"], restart=policy)
    ended = await client.instances.wait(vm.id, ["ended"])
    assert ended.exit is not None and (ended.exit.code, ended.restarts, ended.incarnation) == (0, 1, 2)


async def test_the_console_shows_and_takes_keys(client: Client, guests: Guests) -> None:
    vm = await guests.boot()
    async with client.instances.console(vm.id) as console:
        await run(
            client, vm.id, "sh", "-c", "(echo hello console; read x; echo got $x) < /dev/console > /dev/console &"
        )
        said = b""
        async for data in console:
            said += data
            if said.endswith(b"hello console\r\n"):
                await console.write(b"key\r")
            if b"got key" in said:
                break


async def test_a_wrong_image_name_leaves_nothing(client: Client, guests: Guests) -> None:
    for image, kind in (("no-such-image", "NotFound"), ("../etc", "Invalid"), ("a b", "Invalid")):
        with pytest.raises(Refused) as caught:
            await guests.make(image)
        assert (caught.value.kind, caught.value.problem.field) == (kind, "image")
