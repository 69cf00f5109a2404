"""What one client may ask of the gateway, and who he is in guests."""

from __future__ import annotations

from dataclasses import dataclass

from polyvisor.model.units import Seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """`strangers` are connections that have not logged in; `tries` the keys that one may show; `idle` after how long
    without a word either way it is closed, 0: never. `user` is who one comes in as where a guest has such a user;
    empty: always the user of its image.
    """

    strangers: int = 64
    connections: int = 1024
    tries: int = 12
    sessions: int = 16
    idle: Seconds = Seconds(0.0)
    user: str = ""
