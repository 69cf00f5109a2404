"""Snapshots of real machines: taken while they run, gone back to, made into others."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from polyvisor.client import Client
from polyvisor.wire.native import CreateInstance, CreateSnapshot, Snapshot
from real.guests import Guests, sh


class Snapshots:
    """Snapshots that are gone after the test."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._made: list[str] = []

    async def take(self, key: str) -> Snapshot:
        """A new one."""
        made = await self._client.instances.snapshot(key, CreateSnapshot(name="s" + uuid.uuid4().hex[:8]))
        self._made.append(made.id)
        return made

    async def discard(self) -> None:
        """Delete them all."""
        left = {snapshot.id async for snapshot in self._client.snapshots.list()}
        for id in self._made:
            if id in left:
                await self._client.snapshots.delete(id)


@pytest.fixture
async def snapshots(client: Client) -> AsyncIterator[Snapshots]:
    """Set up before `guests`: instances go first, snapshots after them."""
    made = Snapshots(client)
    yield made
    await made.discard()


async def test_a_disk_goes_back_and_forks_go_their_own_way(
    client: Client, snapshots: Snapshots, guests: Guests
) -> None:
    vm = await guests.boot()
    await sh(client, vm.id, "echo one > /root/one")
    snapshot = await snapshots.take(vm.id)
    assert snapshot.size > 0
    await sh(client, vm.id, "echo two > /root/two; sync")
    later = await snapshots.take(vm.id)
    fork = await guests.boot(None, snapshot=snapshot.name)
    assert await sh(client, fork.id, "ls /root") == "one"
    await sh(client, fork.id, "echo fork > /root/fork; sync")
    assert await sh(client, vm.id, "cat /root/*") == "one\ntwo"
    await client.instances.stop(vm.id, force=True)
    await client.instances.revert(vm.id, snapshot.id)
    await client.instances.start(vm.id, wait="ready")
    assert await sh(client, vm.id, "ls /root") == "one"
    await client.instances.stop(vm.id, force=True)
    await client.instances.revert(vm.id, later.id)
    await client.snapshots.delete(snapshot.id)
    await client.snapshots.delete(later.id)
    await client.instances.start(vm.id, wait="ready")
    assert await sh(client, vm.id, "cat /root/*") == "one\ntwo"
    assert await sh(client, fork.id, "cat /root/*") == "fork\none"


async def test_a_fork_needs_nobody(client: Client, snapshots: Snapshots, guests: Guests) -> None:
    vm = await guests.boot(hostname="source")
    await sh(client, vm.id, "head -c 3000000 /dev/urandom > /root/f")
    digest = await sh(client, vm.id, "sha256sum < /root/f")
    snapshot = await snapshots.take(vm.id)
    await client.instances.delete(vm.id, force=True)
    request = CreateInstance(snapshot=snapshot.id, name="t" + uuid.uuid4().hex[:10], vcpus=2)
    fork = await client.instances.create(request, wait="ready")
    try:
        await client.snapshots.delete(snapshot.id)
        assert await sh(client, fork.id, "sha256sum < /root/f; nproc") == f"{digest}\n2"
    finally:
        await client.instances.delete(fork.id, force=True)
