"""Who comes to this host's instances. In user mode: doors before those with a policy of standby, the socket table for
the others. In bridge mode: the packet filter's connections, and the devices of those who sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from time import monotonic

from polyvisor.host.links import ByAgent, Link, by_socket
from polyvisor.host.memory import MemoryFiles
from polyvisor.host.network.bridge import BridgeNetwork
from polyvisor.host.network.doors import DRAIN, Doors, inner_of
from polyvisor.host.network.flows import Flows
from polyvisor.host.network.sleepers import Sleepers
from polyvisor.host.paths import Paths
from polyvisor.host.watch import Watcher
from polyvisor.model.faults import Busy, Fault
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.model.spec import Spec
from polyvisor.model.standby import Connection, Inbound
from polyvisor.ports.hypervisor import LiveVm, TapNic, UserNic
from polyvisor.ports.network import NetworkDriver

log = logging.getLogger("polyvisor.host")
_SOCKETS = Path("/proc/net/tcp")
_ESTABLISHED = "01"
_PAUSE = 0.05


class LocalEntrance:
    """An Entrance, and what the host tells it about its machines."""

    def __init__(
        self, paths: Paths, network: NetworkDriver, vms: Mapping[InstanceId, LiveVm], memory: MemoryFiles,
        watcher: Watcher,
    ) -> None:  # fmt: skip
        self._knocks: asyncio.Queue[InstanceId] = asyncio.Queue()
        self._doors = Doors(paths, self._knocks.put_nowait)
        self._sleepers = Sleepers(self._knocks.put_nowait)
        self._flows = Flows(network.network) if isinstance(network, BridgeNetwork) else None
        self._ips: dict[InstanceId, str] = {}
        self._network = network
        self._vms = vms
        self._memory = memory
        self._watcher = watcher
        self._saving: set[InstanceId] = set()
        self._shut: set[InstanceId] = set()  # for those too that have no doors
        self._links: Counter[InstanceId] = Counter()
        self._linked: Counter[InstanceId] = Counter()  # so many there were
        self._waiting: set[asyncio.Task[None]] = set()

    # -- what the host tells ---------------------------------------------------------------------------------------

    async def nic(self, blueprint: Blueprint) -> UserNic | TapNic | None:
        """What to launch with. :raise Busy: a wanted host port is taken."""
        if blueprint.address is None:
            return None
        self._ips[blueprint.id] = blueprint.address.ip
        if not wanted(blueprint.spec):
            self.ended(blueprint.id)  # there was a policy until a moment ago
            return self._network.nic(blueprint)
        nic = self._network.nic(inner_of(blueprint))
        if isinstance(nic, TapNic):
            return TapNic(nic.device, self._sleepers.hand(blueprint.id, blueprint.address, nic.device))
        return None if nic is None else await self._doors.behind(blueprint, nic)

    async def adopted(self, blueprint: Blueprint) -> None:
        """A machine that an earlier server started runs."""
        if blueprint.address is not None:
            self._ips[blueprint.id] = blueprint.address.ip
        await self._doors.again(blueprint.id)
        self.started(blueprint.id)

    def started(self, id: InstanceId) -> None:
        """It runs; a copy of another one is reached once it was told who it is."""
        self._shut.discard(id)
        self._sleepers.awake(id)
        if not self._memory.is_strange(id):
            self.open(id)
        elif id in self._doors:
            task = asyncio.create_task(self._once_known(id), name=f"door of {id}")
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _once_known(self, id: InstanceId) -> None:
        while id in self._vms and self._memory.is_strange(id):  # noqa: ASYNC110 - a file says so
            await asyncio.sleep(_PAUSE)
        self.open(id)

    @contextlib.asynccontextmanager
    async def saving(self, blueprint: Blueprint, vm: LiveVm) -> AsyncIterator[None]:
        """It is being put into standby: nobody gets in until that is over, or has failed and it goes on."""
        if not wanted(blueprint.spec):
            self.ended(blueprint.id)
        elif self._flows is None:
            self._doors.keep(blueprint.id, vm.record.forwards)
            self._doors.shut(blueprint.id)
        self._saving.add(blueprint.id)
        try:
            await self._doors.drained(blueprint.id)
            await self._unlinked(blueprint.id)
            yield
        finally:
            self._saving.discard(blueprint.id)

    async def stays(self, blueprint: Blueprint) -> bool:
        """Of one that is in standby: whether it keeps its place on the bridge, which is minded from now on."""
        if self._flows is None or not wanted(blueprint.spec) or blueprint.address is None:
            return False
        try:
            self._mind(blueprint)
        except Fault as fault:  # `guard` tries again
            log.warning("%s: nobody hears yet who calls it: %s", blueprint.id, fault.public)
        return True

    def _mind(self, blueprint: Blueprint) -> None:
        nic = self._network.nic(blueprint)
        assert isinstance(nic, TapNic)
        assert blueprint.address is not None
        self._sleepers.mind(blueprint.id, blueprint.address, nic.device)

    async def _unlinked(self, id: InstanceId) -> None:
        end = monotonic() + DRAIN
        while self._links[id] and monotonic() < end:  # noqa: ASYNC110 - bounded
            await asyncio.sleep(_PAUSE)

    def ended(self, id: InstanceId) -> None:
        """No instance of it waits to go on: nobody listens."""
        self._doors.close(id)
        self._sleepers.close(id)
        self._shut.discard(id)
        self._linked.pop(id, None)

    async def parted(self, blueprint: Blueprint) -> None:
        """Nor will its guest ever know the connections that it had."""
        self.ended(blueprint.id)
        self._ips.pop(blueprint.id, None)
        if self._flows is not None and blueprint.address is not None:
            await self._flows.forget(blueprint.id, blueprint.address.ip)

    def reach(self, blueprint: Blueprint, vm: LiveVm, port: int) -> tuple[str, int] | None:
        """Where this host finds a TCP port of the guest without knocking; None: nowhere."""
        inside = self._doors.inside(blueprint.id, port)
        return self._network.reach(blueprint, vm.record.forwards, port) if inside is None else ("127.0.0.1", inside)

    @contextlib.asynccontextmanager
    async def connect(self, blueprint: Blueprint, port: int) -> AsyncIterator[Link]:
        """A connection to a port of the guest for somebody whom we have let in already, so past its door: on a bridge
        to its address, else by its agent, and where that does not answer by the forward that it may have.

        :raise Busy: not at this moment. :raise Unavailable: nothing listens.
        """
        id = blueprint.id
        vm = self._vms.get(id)
        if vm is None or id in self._saving or id in self._shut or self._memory.is_strange(id):
            raise Busy("the instance cannot be connected to at this moment", subject=id)
        where = self.reach(blueprint, vm, port)
        self._links[id] += 1
        self._linked[id] += 1
        try:
            direct = where is not None and blueprint.address is not None and where[0] == blueprint.address.ip
            if where is not None and (direct or not self._watcher.ready(id)):
                link: Link = await by_socket(where)
            elif self._watcher.ready(id):
                link = ByAgent(await (await vm.guest()).dial(port))
            else:
                raise Busy("the instance's agent does not answer yet", subject=id)
            try:
                yield link
            finally:
                await link.close()
        finally:
            self._links[id] -= 1
            if not self._links[id]:
                del self._links[id]

    def close(self) -> None:
        """Of the server, not of the instances."""
        for task in self._waiting:
            task.cancel()
        self._doors.close_all()
        self._sleepers.close_all()

    # -- Entrance --------------------------------------------------------------------------------------------------

    async def inbound(self, id: InstanceId) -> Inbound:
        """See Entrance. In user mode without a door, connections that began and ended in between are not seen."""
        vm = self._vms.get(id)
        if self._flows is not None:
            found = await self._flows.seen(id, self._ips[id]) if id in self._ips else ([], [])
        else:
            found = self._doors.seen(id) or await self._at_sockets(vm)
        sessions, begun = 0, 0
        if vm is not None and self._watcher.ready(id):
            with contextlib.suppress(Fault):
                sessions, begun = (await vm.guest()).sessions
        # Links by the agent are sessions of it as well, which is no matter: what counts is whether there is any.
        return Inbound(tuple(found[0]), tuple(found[1]), sessions + self._links[id], begun + self._linked[id])

    async def _at_sockets(self, vm: LiveVm | None) -> tuple[list[Connection], list[Connection]]:
        ports = {host: guest for p, host, guest in vm.record.forwards if p == "tcp"} if vm is not None else {}
        return (await asyncio.to_thread(lambda: list(_connections(ports))) if ports else [], [])

    def shut(self, id: InstanceId) -> None:
        """See Entrance. In bridge mode nothing needs to be shut: what comes too late for the guest waits at its device,
        and wakes it."""
        self._shut.add(id)
        self._doors.shut(id)
        if self._flows is not None:
            self._flows.renew()

    def open(self, id: InstanceId) -> None:
        """See Entrance."""
        if id in self._vms and id not in self._saving and not self._memory.is_strange(id):
            self._shut.discard(id)
            self._doors.open(id)

    async def guard(self, blueprint: Blueprint) -> None:
        """See Entrance."""
        id = blueprint.id
        if id in self._saving:
            return
        if id in self._vms:
            await self._doors.again(id)  # one of its ports was taken when we met the machine
            self.open(id)
            return
        if not self._memory.is_saved(id):
            return
        if self._flows is not None:
            await self._guard_device(blueprint)
        elif not wanted(blueprint.spec) or blueprint.address is None:
            self._doors.close(id)
        elif id not in self._doors:
            nic = self._network.nic(inner_of(blueprint))
            if isinstance(nic, UserNic):
                await self._doors.stand(blueprint, nic)

    async def _guard_device(self, blueprint: Blueprint) -> None:
        id = blueprint.id
        if self._sleepers.minds(id) and not wanted(blueprint.spec):
            self._sleepers.close(id)
            await self._network.unplug(blueprint)
        elif id not in self._sleepers and wanted(blueprint.spec) and blueprint.address is not None:
            self._ips[id] = blueprint.address.ip
            await self._network.plug(blueprint)
            if id not in self._sleepers and id not in self._vms and self._memory.is_saved(id):  # it does not go on now
                self._mind(blueprint)

    def turn_away(self, id: InstanceId) -> int:
        """See Entrance."""
        return self._doors.turn_away(id) + self._sleepers.turn_away(id)

    async def knocks(self) -> AsyncIterator[InstanceId]:
        """See Entrance."""
        while True:
            yield await self._knocks.get()


def wanted(spec: Spec) -> bool:
    """Whether who connects is to wake it."""
    return spec.standby is not None and spec.standby.enabled


def _connections(ports: Mapping[int, int]) -> Iterator[Connection]:
    """Those that are open to one of these ports of the host, which lead to the guest ports that are their values."""
    for line in _SOCKETS.read_text().splitlines()[1:]:
        _, local, peer, state, *_ = line.split()
        guest = ports.get(int(local.partition(":")[2], 16))
        if guest is not None and state == _ESTABLISHED:
            address = struct.pack("=I", int(peer.partition(":")[0], 16))
            yield Connection(socket.inet_ntoa(address), guest)
