"""One server for all tests of a worker: each test makes things of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from dialect.served import Served, serving


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The server."""
    async with serving(tmp_path_factory.mktemp("served") / "data") as running:
        yield running


@pytest.fixture
def http(served: Served) -> httpx.AsyncClient:
    """An HTTP client with the operator's key."""
    return served.http
