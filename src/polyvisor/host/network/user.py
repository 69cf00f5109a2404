"""User mode: each instance behind a NAT process of its own. Nothing on the host is touched, no rights are needed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from polyvisor.host.network import egress, enclosed
from polyvisor.host.vaults.gate import Gate, require_gate
from polyvisor.model.faults import Busy, Invalid, Unsupported, WrongState
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.model.spec import Port, Shape
from polyvisor.ports.hypervisor import Enclosure, UserNic
from polyvisor.ports.network import Forwards

_SSH = 22
_ADDRESSES_HOLD = 5.0
_TRIE = Path("/proc/net/fib_trie")
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


class UserNetwork:
    """A NetworkDriver that has nothing to set up or tear down: forwards are part of the launch.

    A machine that has a policy of what it reaches, or may get one without a launch, has its NAT in an enclosure.
    """

    def __init__(self, packages: Sequence[str] = (), *, real: bool = True, gate: Gate | None = None) -> None:
        """`packages`: names of registries. Not `real`: there are no machines, and nothing that could be told. `gate` is
        where what machines with vaults say is led to."""
        self._gate = gate
        self._packages = tuple(packages)
        self._real = real
        self._told: dict[InstanceId, _Told] = {}
        self._closed: tuple[float, tuple[str, ...]] = (0.0, ())

    async def start(self, known: Sequence[Blueprint]) -> None:
        """See NetworkDriver. What an earlier server told an enclosure is not known: it is told again."""
        there = await asyncio.to_thread(enclosed.found) if self._real else {}
        for blueprint in known:
            if blueprint.id in there or (not self._real and _enclosed(blueprint)):
                self._told[blueprint.id] = _Told(pid=there.get(blueprint.id, 0))

    def check(self, blueprint: Blueprint) -> None:
        """See NetworkDriver. Whether host ports are free is tried at each launch.

        :raise Invalid: one that only a process with rights may take, which what forwards it never is.
        :raise Unsupported: a limit of speed: the NAT process copies streams and has none, nor has the hypervisor.
        """
        require_gate(blueprint, self._gate is not None or not self._real)
        for name in ("download_rate", "upload_rate"):
            if getattr(blueprint.spec, name):
                raise Unsupported(f"{name}: only bridge mode can limit a network's speed", field=name)
        first = _first_free()
        for port in blueprint.spec.ports:
            if 0 < port.host < first:
                raise Invalid(
                    f"ports: host port {port.host} needs rights; the first free one is {first}", field="ports"
                )

    async def plug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""

    async def unplug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        self._told.pop(blueprint.id, None)
        self._forget(blueprint.id)

    def nic(self, blueprint: Blueprint) -> UserNic | None:
        """See NetworkDriver. A full-shape machine gets a way in to its SSH port unasked, and every one to
        the port that its health is asked at."""
        if blueprint.address is None:
            return None
        wanted = list(blueprint.spec.ports)
        if blueprint.spec.shape is Shape.FULL and not any(p.guest == _SSH for p in wanted):
            wanted.append(Port(_SSH))
        check = blueprint.spec.health
        if check is not None and check.port and not any((p.protocol, p.guest) == ("tcp", check.port) for p in wanted):
            wanted.append(Port(check.port))
        found: dict[int, int] = {}
        with contextlib.ExitStack() as held:  # all at once, the wanted ones first: no port is found free twice
            for index in sorted(range(len(wanted)), key=lambda i: not wanted[i].host):
                found[index] = held.enter_context(_bound(wanted[index])).getsockname()[1]
        forwards = tuple((p.protocol, found[index], p.guest) for index, p in enumerate(wanted))
        return UserNic(forwards, enclosure=self._enclosure(blueprint))

    # -- what a machine reaches ----------------------------------------------------------------------------------

    def _facts(self, blueprint: Blueprint) -> egress.Facts:
        """The host's addresses may change; they are read anew once in a while."""
        read, closed = self._closed
        if not closed or monotonic() - read > _ADDRESSES_HOLD:
            closed = egress.local_addresses(_TRIE.read_text()) if self._real else ()
            self._closed = (monotonic(), closed)
        return egress.Facts(self._packages, closed, bool(blueprint.spec.vaults))

    def _enclosure(self, blueprint: Blueprint) -> Enclosure | None:
        self._forget(blueprint.id)  # its next one is another one
        if not _enclosed(blueprint):
            self._told.pop(blueprint.id, None)
            return None
        policy, facts = blueprint.spec.egress, self._facts(blueprint)
        self._told[blueprint.id] = _Told(egress.in_force(policy, facts), tuple(enclosed.sets(policy, facts)))
        assert blueprint.address
        return enclosed.enclosure(blueprint.id, policy, facts, blueprint.address.dns)

    def enforced(self, blueprint: Blueprint) -> bool:
        """See NetworkDriver."""
        told = self._told.get(blueprint.id)
        if told is None:
            return True
        led = self._gate is None or self._gate.has(blueprint.id) == bool(blueprint.spec.vaults)
        return led and told.mark == egress.in_force(blueprint.spec.egress, self._facts(blueprint))

    def require_enforceable(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        if blueprint.id not in self._told:
            text = "egress: the machine was started without a policy; it can have one while it is stopped"
            raise WrongState(text, field="egress")

    async def enforce(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        told = self._told.get(blueprint.id)
        if told is None or blueprint.address is None:
            return
        policy, facts = blueprint.spec.egress, self._facts(blueprint)
        if self._real:
            if await asyncio.to_thread(enclosed.called, told.pid) != blueprint.id:  # or its rules would be another's
                told = replace(told, pid=(await asyncio.to_thread(enclosed.found)).get(blueprint.id, 0))
            await enclosed.change(told.pid, policy, facts, blueprint.address.dns, told.sets)
            await self._lead(blueprint, told.pid)
        now = replace(told, mark=egress.in_force(policy, facts), sets=tuple(enclosed.sets(policy, facts)))
        self._told[blueprint.id] = now

    async def _lead(self, blueprint: Blueprint, pid: int) -> None:
        if self._gate is None:
            return
        if blueprint.spec.vaults:
            await self._gate.open(blueprint.id, pid, enclosed.OPENER, enclosed.DEVICE, enclosed.OPENER_MARK)
        else:
            self._gate.shut(blueprint.id)

    def _forget(self, id: InstanceId) -> None:
        if self._gate is not None:
            self._gate.forget(id)

    async def close(self) -> None:
        """See NetworkDriver."""
        if self._gate is not None:
            await self._gate.close()

    def reach(self, blueprint: Blueprint, forwards: Forwards, port: int) -> tuple[str, int] | None:
        """See NetworkDriver."""
        return next((("127.0.0.1", host) for kind, host, guest in forwards if (kind, guest) == ("tcp", port)), None)

    def domain(self, blueprint: Blueprint) -> str:
        """See NetworkDriver."""
        return ""

    async def sweep(self, known: Collection[InstanceId]) -> None:
        """See NetworkDriver."""

    async def stop(self) -> None:
        """See NetworkDriver."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What an enclosure was told last, if that is known, and its first process, once that was looked for."""

    mark: str = ""
    sets: tuple[str, ...] = ()
    pid: int = 0


def _enclosed(blueprint: Blueprint) -> bool:
    """Whether it is launched into an enclosure. A spare is: whoever takes it over may have a policy."""
    spec = blueprint.spec
    return spec.egress is not None or bool(spec.vaults) or (spec.bare and bool(spec.origin))


def _first_free() -> int:
    """The first port that a process without rights may listen on."""
    return int(_UNPRIVILEGED.read_text())


def _bound(port: Port) -> socket.socket:
    """A socket at the host port: tried by binding it, since later refusals cannot say which one was taken."""
    udp = port.protocol == "udp"
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    if not udp:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", port.host))
    except OSError as error:
        probe.close()
        raise Busy(
            f"ports: {port.protocol} port {port.host} of the host is taken", field="ports", private=str(error)
        ) from error
    return probe
