"""The DNS of the world: records that are asked for, and changes of zones that take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from polyvisor.model.domain import Record, Zone


class Dns(Protocol):
    """Names are without a dot at their end. `private`: a zone's server may also be one that only this host or its
    neighbours can reach; otherwise its address is public."""

    async def texts(self, name: str) -> Sequence[str]:
        """Its TXT records; none where there is no such name. :raise Upstream: nobody says."""

    async def add(self, zone: Zone, records: Sequence[Record], *, private: bool) -> Sequence[Record]:
        """TXT records beside those that there are, others where the name had none at all. Those that were added.

        :raise Invalid: without a field; the server refuses, cannot be reached, or is none for that zone.
        """

    async def remove(self, zone: Zone, records: Sequence[Record], *, private: bool) -> None:
        """These and no others; some may be gone already. :raise Invalid: likewise."""
