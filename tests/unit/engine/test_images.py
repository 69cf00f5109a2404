"""Pulls that are shared, and uploads that find room or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from contract.store.things import P, projects
from polyvisor.engine import images as engine_images
from polyvisor.engine.images import ImagesEngine
from polyvisor.host.hypervisor.fake.host import FakeImages
from polyvisor.model.faults import Fault, Invalid, NoCapacity, NotFound
from polyvisor.model.image import Image
from polyvisor.model.principal import Action, Principal, member
from polyvisor.model.units import TIB
from polyvisor.ports.images import Progress
from polyvisor.server.wiring import utc_now
from polyvisor.store import open_store

ROOT = Principal("root", P, frozenset(Action), operator=True)


class SlowImages(FakeImages):
    """Images that come when they are let."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[bool] = []
        self.go = asyncio.Event()

    async def pull(self, reference: str, progress: Progress, *, trusted: bool = False) -> Image:
        self.asked.append(trusted)
        await self.go.wait()
        return await super().pull(reference, progress)


@pytest.fixture
async def slow(tmp_path: Path) -> SlowImages:
    return SlowImages(tmp_path)


@pytest.fixture
async def engine(slow: SlowImages, tmp_path: Path) -> AsyncIterator[ImagesEngine]:
    store = await open_store("sqlite://")
    await projects(store)
    yield ImagesEngine(store, cast(Any, SimpleNamespace(images=slow)), utc_now, tmp_path)
    await store.close()


async def test_a_waiter_that_gives_up_leaves_the_pull_to_the_others(engine: ImagesEngine, slow: SlowImages) -> None:
    name = "r.example/a:1"
    one, two = (asyncio.create_task(engine.resolve(ROOT, name)) for _ in range(2))
    while not slow.asked:
        await asyncio.sleep(0)
    await asyncio.sleep(0.3)  # the other one looks for it in the store meanwhile, and joins
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    slow.go.set()
    assert (await two).names == (name,)
    assert slow.asked == [True]
    assert engine._pulls == {}


async def test_a_tenant_is_not_trusted_with_an_operators_pull(engine: ImagesEngine, slow: SlowImages) -> None:
    await engine.pull(ROOT, "r.example/a")
    pull = await engine.pull(member("root", P), "r.example/a")
    slow.go.set()
    await pull.task
    assert sorted(slow.asked) == [False, True]


@pytest.mark.parametrize("name", ["nonesuch", "sha256:" + "0" * 64])
async def test_what_no_registry_is_named_for_is_not_found_at_once(engine: ImagesEngine, name: str) -> None:
    with pytest.raises(NotFound) as refused:
        await engine.pull(ROOT, name)
    assert refused.value.field == "image"


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize(
    ("length", "limit", "reserve", "fault"),
    [(2 * TIB * 1000, 10, 0, NoCapacity), (100, 10, 0, Invalid), (0, 10, 10**18, NoCapacity)],
)
async def test_an_upload_that_is_refused_leaves_neither_file_nor_promise(
    engine: ImagesEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    length: int, limit: int, reserve: int, fault: type[Fault],
) -> None:  # fmt: skip
    monkeypatch.setattr(engine_images, "RESERVE", reserve)
    with pytest.raises(fault):
        await engine.take(ROOT, "a", body(b"x" * 6, b"x" * 6), limit, length)
    assert list(tmp_path.iterdir()) == []
    assert engine._promised == 0


async def test_an_upload_keeps_its_promise(engine: ImagesEngine, slow: SlowImages, tmp_path: Path) -> None:
    slow.go.set()
    image = await engine.take(ROOT, "a", body(b"x" * 6, b"x" * 6), 100, 8)  # and sends more than it said
    assert image.names == ("a:latest",)
    assert engine._promised == 0
    assert list(tmp_path.iterdir()) == []
