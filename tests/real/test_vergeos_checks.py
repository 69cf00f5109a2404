"""The checks of the VergeOS dialect that are made with HTTP alone, once more on real machines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from dialect.vergeos import (
    test_clients,
    test_copies,
    test_parts,
    test_playbooks,
    test_power,
    test_tags,
    test_tasks,
    test_vms,
)
from dialect.vergeos.conftest import Api
from serving import Server

Check = Callable[[Api], Awaitable[None]]
MODULES = (test_power, test_vms, test_parts, test_copies, test_tasks, test_tags, test_clients, test_playbooks)
TAKES_A_GUEST: frozenset[Any] = frozenset({
    # what answers, or lets go of a device, has to run in the machine: `test_vergeos` and `test_debian` have such guests
    test_power.test_guests_are_typed_at_and_asked_by_their_agent,
    test_parts.test_a_drive_of_a_running_vm_is_plugged_in_and_out,
    test_parts.test_a_nic_comes_to_a_running_vm,
    test_clients.test_who_builds_images_waits_for_a_disk_and_finds_an_address,
})  # fmt: skip
CHECKS: list[Check] = [
    check
    for module in MODULES
    for name, check in vars(module).items()
    if name.startswith("test_") and list(inspect.signature(check).parameters) == ["api"] and check not in TAKES_A_GUEST
]


@pytest.fixture
async def api(base: Server) -> AsyncIterator[Api]:
    """The administrator of a server with QEMU; what a test has made is gone after it."""
    async with httpx.AsyncClient(base_url=base.facts["url"], trust_env=False, timeout=60) as http:
        made = Api(http, {"Authorization": f"Bearer {base.facts['api_key']}"})
        before = await _vms(made)
        yield made
        for key in await _vms(made) - before:
            await made.ask("POST", "vm_actions", {"vm": key, "action": "kill"})
            async with asyncio.timeout(60):
                while (await made.ask("DELETE", f"vms/{key}")).status_code not in (200, 404):
                    await asyncio.sleep(0.1)


async def _vms(api: Api) -> set[int]:
    return {row["$key"] for row in await api.get("vms", filter="is_snapshot eq false", fields="$key")}


@pytest.mark.lengthy
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_holds_on_real_machines(check: Check, api: Api) -> None:
    await check(api)
