"""A server with real machines. Made once for a worker, since a kernel is unpacked for it; guests are a test's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from polyvisor.client import Client
from polyvisor.wire.native import PullProgress
from real.guests import Guests
from real.registries import registry_in
from real.upstream import Machines, machines_of
from real.verges import Verge
from serving import Server, await_gone
from serving import machines_of as processes_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Emulated guests on two cores are at the mercy of all else there: what fails runs once more, told as `R`."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in user mode that lives for the whole session."""
    server = Server(tmp_path_factory.mktemp("real") / "data").start()
    yield server
    finish(server)


def finish(server: Server) -> None:
    """Delete every instance, stop; nothing of it may be left."""
    if server.process is None:
        server.start()
    server.cli("rm", "--all", "--force", check=True)
    assert server.stop() == 0
    await_gone(processes_of(server.data))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry on loopback that lives for the whole session, as `host:port`."""
    with registry_in(tmp_path_factory.mktemp("registry")) as where:
        yield where


@pytest.fixture(scope="session")
def debian_told(base: Server) -> list[PullProgress]:
    """What is told while `debian-12` is built on `base`."""

    async def pull() -> list[PullProgress]:
        told = []
        async with base.client() as client:
            async for said in client.images.pull("debian-12"):
                told.append(said)
                assert str(base.data) not in Path("/proc/mounts").read_text()  # a build's mounts are its own
        return told

    return asyncio.run(pull())


@pytest.fixture(scope="session")
def debian(debian_told: list[PullProgress]) -> str:
    """The name of the image `debian-12`, which is on `base` by then."""
    assert debian_told[-1].image is not None
    return "debian-12"


@pytest.fixture(scope="session")
def standard(base: Server) -> str:
    """The name of the image `standard`, which is on `base` by then."""

    async def pull() -> None:
        async with base.client() as client:
            async for _ in client.images.pull("standard"):
                pass

    asyncio.run(pull())
    return "standard"


@pytest.fixture
async def client(base: Server) -> AsyncIterator[Client]:
    """Its operator."""
    async with base.client() as client:
        yield client


@pytest.fixture
async def guests(client: Client) -> AsyncIterator[Guests]:
    """Instances that are gone after the test."""
    made = Guests(client)
    yield made
    await made.discard()


@pytest.fixture
async def machines(base: Server) -> AsyncIterator[Machines]:
    """Instances by upstream's client of the Hypeman dialect, that are gone after the test."""
    async with machines_of(base) as made:
        yield made


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's client hears its `verify_ssl=False`: with either of these it does not."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def verge(base: Server, trusting: None) -> Iterator[Verge]:
    """The administrator's; what a test has made is gone after it."""
    made = Verge(base)
    before = {vm.key for vm in made.sdk.vms.list()}
    yield made
    for vm in made.sdk.vms.list():
        if vm.key not in before:
            if vm.is_running or vm.get("status") not in ("stopped", "error"):
                vm.power_off(force=True)
                made.until(vm, "stopped")
            made.sdk.vms.delete(vm.key)
    made.sdk.disconnect()


@pytest.fixture
def another(base: Server, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Servers of a test's own, on data directories of their own; what is slow to make is shared with `base`."""
    made: list[Server] = []

    def make(*flags: str, prefix: tuple[str, ...] = ()) -> Server:
        data = tmp_path / f"data{len(made)}"
        share(base.data, data)
        server = Server(data, *flags, prefix=prefix).start()
        made.append(server)
        return server

    yield make
    for server in made:
        finish(server)


def share(base: Path, data: Path, what: str = "boot") -> None:
    """Hard links to the files that guests boot from, or to the images: they are never written again."""
    for folder, _, files in os.walk(base / what):
        there = data / what / Path(folder).relative_to(base / what)
        there.mkdir(parents=True, mode=0o700)
        for name in files:
            source = Path(folder) / name
            if source.is_symlink():
                (there / name).symlink_to(source.readlink())
            else:
                os.link(source, there / name)
