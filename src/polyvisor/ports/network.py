"""What a host needs of its network: a NIC for each instance, and nothing left behind when it is gone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.ports.hypervisor import TapNic, UserNic

Forwards = tuple[tuple[str, int, int], ...]  # (protocol, host port, guest port)


class NetworkDriver(Protocol):
    """One network mode on this host. Every verb is safe to repeat."""

    async def start(self, known: Sequence[Blueprint]) -> None:
        """Shared parts are up and describe exactly the instances in `known`; the rest is removed."""

    def check(self, blueprint: Blueprint) -> None:
        """Refuse what this mode cannot do. :raise Unsupported: naming the field."""

    async def plug(self, blueprint: Blueprint) -> None:
        """The instance's part is there. Undone by `unplug`."""

    async def unplug(self, blueprint: Blueprint) -> None:
        """Nothing of the instance is left."""

    def nic(self, blueprint: Blueprint) -> UserNic | TapNic | None:
        """What to launch with; free host ports are chosen here. :raise Busy: a wanted host port is taken."""

    def reach(self, blueprint: Blueprint, forwards: Forwards, port: int) -> tuple[str, int] | None:
        """Where this host finds a TCP port of the guest, which was launched with those; None: nowhere."""

    def domain(self, blueprint: Blueprint) -> str:
        """Where the guest looks short names up; empty: its DNS knows no instances."""

    def enforced(self, blueprint: Blueprint) -> bool:
        """Whether what the running instance reaches is what its `egress` says, as far as we have told."""

    def require_enforceable(self, blueprint: Blueprint) -> None:
        """:raise WrongState: what the instance reaches cannot change while it runs."""

    async def enforce(self, blueprint: Blueprint) -> None:
        """What the running instance reaches is what its `egress` says. Connections that it allows go on.

        :raise Unavailable: not at this moment.
        """

    async def close(self) -> None:
        """This server goes; what there is of instances stays."""

    async def sweep(self, known: Collection[InstanceId]) -> None:
        """Remove what belongs to no known instance."""

    async def stop(self) -> None:
        """Shared parts are gone. Only when no instance is left."""
