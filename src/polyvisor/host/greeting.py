"""What a guest is told when its agent answers, before it is said to be ready: the time, or who it is and what for."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace

from polyvisor.host.boot import guest_config
from polyvisor.host.memory import MemoryFiles
from polyvisor.model.faults import Busy, Fault, Invalid, NotFound, Unavailable
from polyvisor.model.guest import Identity
from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import InstanceId, machine_id
from polyvisor.model.spec import Shape
from polyvisor.ports.guest import Guest
from polyvisor.ports.hypervisor import LiveVm
from polyvisor.ports.network import NetworkDriver

log = logging.getLogger("polyvisor.host")


class Greeting:
    """Of the machines in `vms`. `mounts` are the volumes that each has, by serial."""

    def __init__(
        self,
        memory: MemoryFiles,
        network: NetworkDriver,
        vms: Mapping[InstanceId, LiveVm],
        mounts: Mapping[InstanceId, Mapping[str, Disk]],
    ) -> None:
        self._memory = memory
        self._network = network
        self._vms = vms
        self._mounts = mounts

    async def welcome(self, blueprint: Blueprint, guest: Guest) -> None:
        """A copy of another machine is told who it is, and only then meets the network. The clock of one that stood
        still did too. A full guest boots without knowing where its volumes belong; a micro one was told before.

        :raise Fault: it is not ready yet; all of it is said again.
        """
        if self._memory.is_strange(blueprint.id):
            await self._introduce(blueprint, guest)
        else:
            await _set_clock(blueprint.id, guest)
        if blueprint.address is not None:
            await self._vm(blueprint.id).announce()
        if blueprint.spec.shape is Shape.FULL:
            await self._mount(blueprint.id, guest)

    async def _introduce(self, blueprint: Blueprint, guest: Guest) -> None:
        await guest.take_identity(identity_of(blueprint))
        if self._memory.is_bare(blueprint.id) and not blueprint.spec.bare:
            await self._tell(blueprint, guest)
        if blueprint.address is not None:
            await self._vm(blueprint.id).link(up=True)
        self._memory.introduced(blueprint.id, bare=blueprint.spec.bare)

    async def configure(self, blueprint: Blueprint) -> None:
        """A copy of a template that runs already is told its name and what it is for. Safe to repeat."""
        guest = await self._vm(blueprint.id).guest()
        await guest.take_identity(replace(identity_of(blueprint), address=None))
        await self._tell(blueprint, guest)
        self._memory.introduced(blueprint.id)

    async def _tell(self, blueprint: Blueprint, guest: Guest) -> None:
        with contextlib.suppress(Busy):  # it was told, and nobody wrote that down
            await guest.configure(guest_config(blueprint, self._network.domain(blueprint)))

    async def _mount(self, id: InstanceId, guest: Guest) -> None:
        for disk in list(self._mounts.get(id, {}).values()):
            try:
                await guest.mount(disk.serial, disk.path, read_only=disk.read_only, overlay=disk.overlay)
            except (NotFound, Invalid) as fault:
                log.warning("%s: %s is not mounted: %s", id, disk.path, fault.public)

    def _vm(self, id: InstanceId) -> LiveVm:
        vm = self._vms.get(id)
        if vm is None:
            raise Unavailable("the instance does not run")
        return vm


def identity_of(blueprint: Blueprint) -> Identity:
    """Who an instance is, for a machine that was another one."""
    hostname = blueprint.spec.hostname or blueprint.name
    return Identity(hostname, machine_id(blueprint.id), blueprint.address, secrets.token_bytes(64))


async def _set_clock(id: InstanceId, guest: Guest) -> None:
    try:
        await guest.set_clock()
    except Fault as fault:
        log.warning("%s: its clock is not set: %s", id, fault.public)
