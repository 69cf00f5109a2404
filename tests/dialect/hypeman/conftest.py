"""One server for all tests of a worker, and upstream's own clients of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
from hypeman import AsyncHypeman, Hypeman

from dialect.served import Served, serving
from polyvisor.model.faults import NotFound
from polyvisor.model.principal import SYSTEM


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The server."""
    async with serving(tmp_path_factory.mktemp("served") / "data") as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def _nothing_stays(served: Served) -> AsyncIterator[None]:
    """What tests made takes room that others need: memory is promised to each machine, if not used."""
    yield
    for instance in (await served.parts.engine.instances.list(SYSTEM, None, 1000)).items:
        with contextlib.suppress(NotFound):  # it was going already
            await served.parts.engine.power.delete(SYSTEM, instance.id)


@pytest.fixture
def http(served: Served) -> httpx.AsyncClient:
    """An HTTP client with the operator's key."""
    return served.http


@pytest_asyncio.fixture(loop_scope="session")
async def sdk(served: Served) -> AsyncIterator[AsyncHypeman]:
    """Upstream's asynchronous client."""
    async with httpx.AsyncClient(trust_env=False) as http:
        yield AsyncHypeman(api_key=served.key, base_url=served.url, http_client=http, timeout=20)


@pytest.fixture
def blocking_sdk(served: Served) -> Iterator[Hypeman]:
    """Upstream's blocking client; to be used in a thread, since the server is in this one."""
    with httpx.Client(trust_env=False) as http:
        yield Hypeman(api_key=served.key, base_url=served.url, http_client=http, timeout=20)
