"""A way to a machine's screen: RFB, as VNC has it, between its own server and one viewer."""

from __future__ import annotations

from typing import Protocol


class Viewer(Protocol):
    """Bytes both ways, unlooked at."""

    async def read(self) -> bytes:
        """What the machine says next; empty: it has ended, or let go."""

    async def write(self, data: bytes) -> None:
        """Bytes to the machine; what comes after its end is lost. Waits while it does not take them."""

    async def close(self) -> None:
        """Let go of it."""
