"""The courier: it posts letters to addresses that callers named."""

from __future__ import annotations

from typing import Protocol

from polyvisor.model.letter import Letter, Receipt


class Courier(Protocol):
    """`private`: also to what only this host or its neighbours can reach; otherwise to public addresses alone."""

    async def check(self, url: str, *, private: bool) -> None:
        """:raise Invalid: nothing is posted there; `field` is `url`."""

    async def post(self, letter: Letter, *, private: bool) -> Receipt:
        """One try. The address that was judged is the one that is connected to, and no redirect is followed. What
        goes wrong is told in the receipt, and never raised."""
