"""What is made through one API is seen and driven through every other one, on real machines."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from dialect.matrix.faces import APIS, Api
from dialect.matrix.test_matrix import NAMES, drive
from real.conftest import finish, share
from serving import Server

# Pairs that begin and end with the two that are least alike are for every run; all of them take minutes.
SHORT = {("instavm", "hanzo"), ("velocity", "instavm")}
PAIRS = [
    pytest.param(a, b, marks=() if (a, b) in SHORT else pytest.mark.lengthy) for a, b in itertools.product(NAMES, NAMES)
]


@pytest.fixture(scope="module")
def server(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose APIs all make machines of the tiny image, where they make any of an image."""
    folder = tmp_path_factory.mktemp("matrix")
    share(base.data, folder / "data")
    settings = folder / "settings.toml"
    settings.write_text('[instavm]\nimage = "busybox"\n[os_images.busybox]\nimage = "busybox"\n')
    server = Server(folder / "data", "--config", str(settings)).start()
    yield server
    finish(server)


@pytest.fixture
async def faces(server: Server) -> AsyncIterator[dict[str, Api]]:
    """Each API by name."""
    async with httpx.AsyncClient(base_url=server.facts["url"], trust_env=False, timeout=120) as http:
        yield {kind.__name__.lower(): kind(http, server.facts) for kind in APIS}


@pytest.mark.parametrize(("a", "b"), PAIRS)
async def test_made_through_one_and_driven_through_another(faces: dict[str, Api], a: str, b: str) -> None:
    await drive(faces, a, b, limit=120.0)
