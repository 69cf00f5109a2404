"""Doors: the host ports of user-mode instances that are put into standby when they are idle and woken by who connects.

The server itself listens at such a port, for as long as the instance runs or waits in standby, and passes bytes on to
passt, which listens at a port that only we know: so there is no moment at which nobody listens (passt ends with its
machine and binds anew with the next). While the machine is not there to answer, connections are accepted and held.
Beside the instance a file says which ports these are, for the server that comes after us.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from polyvisor.host.durable import read_record, write_record
from polyvisor.host.network.relay import CHUNK, Flow, Relay, Way, reset
from polyvisor.host.paths import Paths
from polyvisor.model.faults import Busy
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.model.spec import Port
from polyvisor.model.standby import Connection
from polyvisor.ports.hypervisor import UserNic

log = logging.getLogger("polyvisor.host")
_FILE = "doors.json"
_HERE = "127.0.0.1"
_HELD = 120.0  # seconds that a connection waits for its guest
_KNOCK_AGAIN = 1.0
_TRY_AGAIN = 0.05
DRAIN = 10.0  # seconds for those who were let in before the door was shut and wait for an answer
_PATIENCE = (0.5, 1.0, 2.0, 4.0)  # seconds for the guest to take a connection; the last again and again
_SOURCES = range(20_000, 60_000)
_TRIES = 100
_BACKLOG = 1024
_MOST = 4096  # connections at a time of one instance: each takes two descriptors of ours
_PAST = 1000  # connections that are remembered until somebody asks


@dataclass
class _Door:
    """One instance's. `inner` is where passt listens, by guest port; `round` counts when those held were sent away;
    `through` are those that are let through now."""

    outer: dict[int, int]
    inner: dict[int, int] = field(default_factory=dict)
    listening: list[asyncio.Server] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    open: bool = False
    round: int = 0
    through: set[Flow] = field(default_factory=set)
    source: int = field(default_factory=lambda: secrets.choice(_SOURCES))
    links: dict[asyncio.Task[None], Connection] = field(default_factory=dict)
    past: list[Connection] = field(default_factory=list)

    def turn(self, *, open: bool) -> None:
        """Let through, or hold; those that are held look again."""
        self.open = open
        self.changed.set()
        self.changed = asyncio.Event()


class Doors:
    """Every door of this host. From the event loop only."""

    def __init__(self, paths: Paths, knock: Callable[[InstanceId], None]) -> None:
        """`knock` is told of those at whose shut door somebody waits; again and again while that is so."""
        self._paths = paths
        self._knock = knock
        self._doors: dict[InstanceId, _Door] = {}

    def __contains__(self, id: InstanceId) -> bool:
        return id in self._doors

    def inside(self, id: InstanceId, guest: int) -> int | None:
        """The port that leads to a guest's without a door: who comes that way wakes nobody and counts for nothing."""
        door = self._doors.get(id)
        return None if door is None else door.inner.get(guest)

    async def behind(self, blueprint: Blueprint, nic: UserNic) -> UserNic:
        """A NIC whose TCP forwards are ports that nobody knows, with our doors before them. :raise Busy:"""
        await self.stand(blueprint, nic)
        door = self._doors[blueprint.id]
        door.inner = {guest: host for protocol, host, guest in nic.forwards if protocol == "tcp"}
        self._write(blueprint.id, door)
        outer = tuple((p, door.outer[guest] if p == "tcp" else host, guest) for p, host, guest in nic.forwards)
        return replace(nic, forwards=outer, inner=nic.forwards)

    async def stand(self, blueprint: Blueprint, nic: UserNic) -> None:
        """Listen at the host ports of the instance, held; safe to repeat. :raise Busy: one is taken."""
        if blueprint.id in self._doors:
            return
        known = self._read(blueprint.id)
        asked = {port.guest: port.host for port in blueprint.spec.ports if port.protocol == "tcp"}
        guests = [guest for protocol, _, guest in nic.forwards if protocol == "tcp"]
        wanted = {guest: asked.get(guest) or known.outer.get(guest, 0) for guest in guests}
        await self._listen(blueprint.id, _Door(wanted))

    async def again(self, id: InstanceId) -> None:
        """The doors of a machine that an earlier server started, if it had any. :raise Busy:"""
        if id not in self._doors and (door := self._read(id)).inner:
            await self._listen(id, door)

    def keep(self, id: InstanceId, forwards: Sequence[tuple[str, int, int]]) -> None:
        """The host ports of a machine that had none of our doors are those at which we listen from now on."""
        if id not in self._doors:
            self._write(id, _Door({guest: host for protocol, host, guest in forwards if protocol == "tcp"}))

    async def _listen(self, id: InstanceId, door: _Door) -> None:
        try:
            for guest in sorted(door.outer, key=lambda guest: not door.outer[guest]):  # the wanted ones first
                sock = _bound(door.outer[guest])
                door.outer[guest] = sock.getsockname()[1]
                door.listening.append(await asyncio.start_server(self._serve(id, guest), sock=sock, backlog=_BACKLOG))
            self._write(id, door)
        except BaseException:
            for server in door.listening:
                server.close()
            raise
        self._doors[id] = door

    # -- open and shut -------------------------------------------------------------------------------------------

    def open(self, id: InstanceId) -> None:
        """The machine is there: let everybody through."""
        if (door := self._doors.get(id)) is not None and door.inner and not door.open:
            door.turn(open=True)

    def shut(self, id: InstanceId) -> None:
        """Whoever comes from now on is held."""
        if (door := self._doors.get(id)) is not None and door.open:
            door.turn(open=False)

    async def drained(self, id: InstanceId) -> None:
        """Those who were let in before the door was shut and wait for an answer get it, within a limit."""
        end = monotonic() + DRAIN
        while (door := self._doors.get(id)) is not None and monotonic() < end:
            if all(flow.at_rest for flow in door.through):
                return
            await asyncio.sleep(_TRY_AGAIN)

    def turn_away(self, id: InstanceId) -> int:
        """The machine cannot be woken: those that are held are reset; how many there were."""
        door = self._doors.get(id)
        if door is None or door.open:
            return 0
        door.round += 1
        door.turn(open=False)
        return len(door.links)

    def close(self, id: InstanceId, *, forget: bool = True) -> None:
        """Nobody listens any more, and nobody is held. `forget`: nor will a later server."""
        if forget:
            (self._paths.instance(id) / _FILE).unlink(missing_ok=True)
        door = self._doors.pop(id, None)
        if door is None:
            return
        for server in door.listening:
            server.close()
        for task in list(door.links):
            task.cancel()

    def close_all(self) -> None:
        """The server goes; its doors are known to the next one."""
        for id in list(self._doors):
            self.close(id, forget=False)

    def seen(self, id: InstanceId) -> tuple[list[Connection], list[Connection]] | None:
        """Connections that are open, and those that have ended since this was asked last; None: there is no door."""
        door = self._doors.get(id)
        if door is None:
            return None
        past, door.past = door.past, []
        return list(door.links.values()), past

    # -- one connection ------------------------------------------------------------------------------------------

    def _serve(self, id: InstanceId, guest: int):  # type: ignore[no-untyped-def]  # as asyncio wants it
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            door, task = self._doors.get(id), asyncio.current_task()
            if door is None or task is None or len(door.links) >= _MOST:
                reset(writer)
                return
            connection = door.links[task] = Connection(writer.get_extra_info("peername")[0], guest)
            relay = Relay(reader, writer)
            try:
                await self._pass(id, door, guest, relay)
            except asyncio.CancelledError:
                relay.reset()  # the door was closed
            except OSError as error:
                log.info("%s: a connection to port %d was cut off: %r", id, guest, error)
                relay.reset()
            finally:
                del door.links[task]
                door.past = [*door.past[-_PAST:], connection]

        return serve

    async def _pass(self, id: InstanceId, door: _Door, guest: int, relay: Relay) -> None:
        """:raise OSError: it was cut off."""
        end, round = monotonic() + _HELD, door.round
        for patience in itertools.chain(_PATIENCE, itertools.repeat(_PATIENCE[-1])):
            way = await self._through(id, door, guest, end, round)
            if way is None:
                relay.reset()
                return
            flow = Flow()
            door.through.add(flow)
            try:
                if await relay.run(way, flow, patience):
                    relay.close()
                    return
            finally:
                door.through.discard(flow)

    async def _through(self, id: InstanceId, door: _Door, guest: int, end: float, round: int) -> Way | None:
        """A connection to the guest, once it is there; None: it will not be."""
        while monotonic() < end and door.round == round:
            changed = door.changed
            if door.open:
                pause = _TRY_AGAIN
                with contextlib.suppress(OSError):  # it has just ended, or is not there yet
                    way = await self._connect(door, guest)
                    if door.changed is changed:
                        return way
                    reset(way[1])  # it was shut meanwhile, and may lead to a machine that ends
            else:
                self._knock(id)
                pause = _KNOCK_AGAIN
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), pause)
        return None

    async def _connect(self, door: _Door, guest: int) -> Way:
        """From a port that none of its connections had for long: a guest that was saved remembers those that it closed,
        and each passt numbers bytes in its own way, so that the same port again may be taken for the past.

        :raise OSError: nobody listens.
        """
        for _ in range(_TRIES):
            door.source = door.source + 1 if door.source + 1 in _SOURCES else _SOURCES[0]
            try:
                return await asyncio.open_connection(
                    _HERE, door.inner[guest], limit=CHUNK, local_addr=(_HERE, door.source)
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        return await asyncio.open_connection(_HERE, door.inner[guest], limit=CHUNK)

    # -- the file ------------------------------------------------------------------------------------------------

    def _read(self, id: InstanceId) -> _Door:
        facts = read_record(self._paths.instance(id) / _FILE) or {}
        outer, inner = ({int(g): int(p) for g, p in facts.get(name, {}).items()} for name in ("outer", "inner"))
        return _Door(outer, inner)

    def _write(self, id: InstanceId, door: _Door) -> None:
        write_record(self._paths.instance(id) / _FILE, {"outer": door.outer, "inner": door.inner}, durable=False)


def inner_of(blueprint: Blueprint) -> Blueprint:
    """The blueprint whose TCP forwards begin at any free port."""
    ports = tuple(Port(p.guest, 0 if p.protocol == "tcp" else p.host, p.protocol) for p in blueprint.spec.ports)
    return replace(blueprint, spec=replace(blueprint.spec, ports=ports))


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((_HERE, port))
    except OSError as error:
        sock.close()
        raise Busy(f"ports: tcp port {port} of the host is taken", field="ports", private=str(error)) from error
    return sock
