"""Health checks of real guests in user mode: by HTTP, by TCP, by a command; and what the restart policy does then."""

from __future__ import annotations

import asyncio

from polyvisor.client import Client
from polyvisor.wire.native import Health, HealthRequest, RestartRequest, UpdateInstance
from real.guests import Guests, sh

LIMIT = 120


async def until(client: Client, key: str, health: str) -> Health:
    """What is known once it is so."""
    async with asyncio.timeout(LIMIT):
        while (found := await client.instances.health(key)).health != health:
            await asyncio.sleep(0.2)
    return found


async def test_a_workload_is_asked_and_started_again_when_it_is_not_well(client: Client, guests: Guests) -> None:
    check = HealthRequest(probe="http", port=8080, path="/ready", interval=0.5, timeout=10, start=0, failures=3)
    restart = RestartRequest(mode="always", backoff=0.1)
    serve = "mkdir -p /www; echo yes > /www/ready; exec httpd -f -p 8080 -h /www"
    vm = await guests.boot(command=["sh", "-c", serve], health=check, restart=restart)
    assert (await until(client, vm.id, "healthy")).error is None
    await sh(client, vm.id, "echo 'exit 1' > /www/stop; rm /www/ready")  # it answers, and not as it should
    async with asyncio.timeout(LIMIT):
        while (now := await client.instances.get(vm.id)).incarnation == vm.incarnation or now.state != "running":
            await asyncio.sleep(0.2)
    assert now.restarts >= 1
    assert (await until(client, vm.id, "healthy")).failures == 0  # what it does when it starts


async def test_a_port_that_nobody_listens_at_is_not_healthy(client: Client, guests: Guests) -> None:
    check = HealthRequest(probe="tcp", port=9000, interval=0.5, timeout=10, start=0, failures=2)
    vm = await guests.boot(health=check)
    found = await until(client, vm.id, "unhealthy")
    assert found.error == "the port takes no connection"
    await sh(client, vm.id, "(while true; do nc -l -p 9000 -e cat; done) > /dev/null 2>&1 < /dev/null &")
    await until(client, vm.id, "healthy")
    by_command = HealthRequest(probe="exec", command=["sh", "-c", "echo broken >&2; exit 3"], interval=0.5, start=0)
    await client.instances.update(vm.id, UpdateInstance(health=by_command))
    assert (await until(client, vm.id, "unhealthy")).error == "exit code 3: broken"
