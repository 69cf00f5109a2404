"""A world for every test."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fault.world import World, copy, template


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a migrated store, made once."""
    return asyncio.run(template(tmp_path_factory.mktemp("template")))


@pytest.fixture
async def world(empty: Path, tmp_path: Path) -> AsyncIterator[World]:
    """A server that has just started."""
    made = World(copy(empty, tmp_path / "data"))
    await made.begin()
    try:
        yield made
        await made.end()
    finally:
        shutil.rmtree(made.paths.shm, ignore_errors=True)
