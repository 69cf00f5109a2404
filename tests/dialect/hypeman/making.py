"""Short ways to make things of a test's own."""

from __future__ import annotations

from typing import Any

from hypeman import AsyncHypeman
from hypeman.types import Instance

from dialect.served import fresh

IMAGE = "docker.io/library/busybox:latest"


async def make(sdk: AsyncHypeman, **fields: Any) -> Instance:
    """A running instance."""
    asked: dict[str, Any] = {"name": fresh("hm"), "image": IMAGE, "cmd": ["sleep", "3600"], "size": "256MB"} | fields
    made = await sdk.instances.create(**asked)
    await sdk.instances.wait(made.id, state="Running", api_timeout="20s")
    return await sdk.instances.get(made.id)
