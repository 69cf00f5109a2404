"""The life of an instance by upstream's own clients, unmodified, over a real socket."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
from hypeman import AsyncHypeman, Hypeman, NotFoundError
from hypeman.lib import exec, exec_async

from dialect.hypeman.making import IMAGE, make
from dialect.served import fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_instance_is_made_as_the_contract_says(sdk: AsyncHypeman) -> None:
    made = await sdk.instances.create(name=fresh("a"), image=IMAGE, cmd=["sleep", "3600"], tags={"team": "x"})
    assert re.fullmatch("[a-z0-9]{24}", made.id)
    assert made.state in ("Initializing", "Running")
    assert (made.size, made.overlay_size, made.hotplug_size, made.vcpus) == ("1024.0 MB", "10.0 GB", "0 B", 2)
    assert (made.image, made.hypervisor, made.tags) == (IMAGE, "qemu", {"team": "x"})
    assert made.network is not None and made.network.name == "default" and made.network.ip and made.network.mac
    assert made.health_status is not None and made.health_status.status == "disabled"


async def test_its_whole_life(sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    ran = await exec_async(sdk, made.id, ["sh", "-c", "echo hi; exit 3"])
    assert (ran.output, ran.exit_code) == (b"hi\n", 3)
    asleep = await sdk.instances.standby(made.id)
    assert (asleep.state, asleep.has_snapshot) == ("Standby", True)
    assert asleep.network is not None and made.network is not None and asleep.network.ip == made.network.ip
    awake = await sdk.instances.restore(made.id)
    assert (awake.state, awake.has_snapshot) == ("Running", False)
    stopped = await sdk.instances.stop(made.id)
    assert stopped.state == "Stopped" and stopped.stopped_at is not None
    assert (await sdk.instances.start(made.id)).state in ("Initializing", "Running")
    await sdk.instances.delete(made.id)
    for _ in range(2):
        with pytest.raises(NotFoundError) as refused:
            await sdk.instances.delete(made.id)
        assert refused.value.body == {"code": "not_found", "message": "resource not found"}


async def test_the_blocking_client_does_the_same(blocking_sdk: Hypeman) -> None:
    def live() -> None:
        made = blocking_sdk.instances.create(name=fresh("b"), image=IMAGE, cmd=["sleep", "3600"], size="256MB")
        assert blocking_sdk.instances.wait(made.id, state="Running", api_timeout="20s").state == "Running"
        assert exec(blocking_sdk, made.id, ["echo", "hi"]).output == b"hi\n"
        assert blocking_sdk.instances.standby(made.id).state == "Standby"
        assert blocking_sdk.instances.restore(made.id).state == "Running"
        assert made.id in [one.id for one in blocking_sdk.instances.list()]
        blocking_sdk.instances.delete(made.id, graceful_shutdown=False)

    await asyncio.to_thread(live)


async def test_it_is_found_by_id_name_and_the_beginning_of_its_id(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk)
    for key in (made.id, made.name, made.id[:20]):
        assert (await sdk.instances.get(key)).id == made.id
    for _ in range(27):  # more ids than there are first letters
        await sdk.instances.create(name=fresh("many"), image=IMAGE, size="256MB")
    ids = [one.id for one in await sdk.instances.list()]
    letter = next(id[0] for id in ids if sum(other[0] == id[0] for other in ids) > 1)
    refused = await http.get(f"/instances/{letter}")
    assert refused.status_code == 409
    assert refused.content == b'{"code":"ambiguous","message":"multiple resources match, use full ID"}'


async def test_it_is_told_how_long_it_was_what_it_was(sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    begun = made.started_at
    assert (made.current_phase, made.phase_durations_ms is not None) == ("running", True)
    await sdk.instances.standby(made.id)
    asleep = await sdk.instances.get(made.id)
    assert asleep.current_phase == "standby" and asleep.started_at == begun
    awake = await sdk.instances.restore(made.id)
    assert awake.started_at == begun
    assert awake.phase_durations_ms is not None
    assert {"created", "running", "standby"} <= set(awake.phase_durations_ms)
    fork = await sdk.instances.fork(made.id, name=fresh("fork"), from_running=True)
    assert fork.phase_durations_ms is not None and "standby" not in fork.phase_durations_ms
