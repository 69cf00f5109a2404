"""One server, and each API of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from dialect.matrix.faces import APIS, Api
from dialect.served import Served, serving

Faces = dict[str, Api]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The server; what each API makes is of the tiny image."""
    folder = tmp_path_factory.mktemp("served")
    settings = folder / "settings.toml"
    settings.write_text('[instavm]\nimage = "busybox"\n[os_images.busybox]\nimage = "busybox"\n')
    async with serving(folder / "data", file=settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def faces(served: Served) -> AsyncIterator[Faces]:
    """By name."""
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=60) as http:
        yield {kind.__name__.lower(): kind(http, served.parts.facts) for kind in APIS}
