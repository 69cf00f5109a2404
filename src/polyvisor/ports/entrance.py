"""The entrance of a host's instances: who wants something of them, and what becomes of those who come in standby."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.model.standby import Inbound


class Entrance(Protocol):
    """Nothing here waits for a guest. Every verb is safe to repeat."""

    async def inbound(self, id: InstanceId) -> Inbound:
        """Who wants something of it now, and who did since this was asked last."""

    def shut(self, id: InstanceId) -> None:
        """Whoever connects from now on is held, not let through to the guest. Undone by `open`."""

    def open(self, id: InstanceId) -> None:
        """Whoever is held gets through, if the machine is there and is not being put into standby."""

    async def guard(self, blueprint: Blueprint) -> None:
        """Of an instance in standby: somebody listens at its host ports if its policy wants that, else nobody does. Of
        one that runs: whoever was to listen does, and lets everybody through.

        :raise Busy: one of them is taken.
        """

    def turn_away(self, id: InstanceId) -> int:
        """It cannot be woken: those that are held are told by a reset; how many there were."""

    def knocks(self) -> AsyncIterator[InstanceId]:
        """Ids of instances at whose shut door somebody waits, repeated while that is so."""
