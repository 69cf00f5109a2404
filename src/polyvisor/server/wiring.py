"""From settings to a running engine: every object is made here, in the order in which they need each other."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from polyvisor.access.seal import Seal
from polyvisor.engine import Engine
from polyvisor.engine.openings import Openings
from polyvisor.host.boot import BootFiles
from polyvisor.host.courier import HttpCourier
from polyvisor.host.dns import NameServers
from polyvisor.host.hypervisor.fake.driver import FakeHypervisor
from polyvisor.host.hypervisor.fake.host import FakeBoot, FakeImages, FakeStorage
from polyvisor.host.hypervisor.fake.proxy import FakeProxy
from polyvisor.host.hypervisor.qemu.driver import open_qemu
from polyvisor.host.images.bounds import Bounds
from polyvisor.host.images.local import LocalImages, Settings
from polyvisor.host.ingress import CaddyProxy
from polyvisor.host.local import LocalHost
from polyvisor.host.network.bridge import BridgeNetwork
from polyvisor.host.network.bridged import HostNics
from polyvisor.host.network.user import UserNetwork
from polyvisor.host.paths import Paths
from polyvisor.host.run import use_proxies
from polyvisor.host.storage import FileStorage
from polyvisor.host.vaults.authority import Authority
from polyvisor.host.vaults.gate import Gate, SharedGate
from polyvisor.model.faults import Busy
from polyvisor.model.ids import HostId
from polyvisor.model.network import NetworkMode
from polyvisor.model.principal import SYSTEM
from polyvisor.model.units import TIB, Bytes, parse_size
from polyvisor.ports.host import Host
from polyvisor.ports.network import NetworkDriver
from polyvisor.ports.store import Store
from polyvisor.reconcile.loop import Reconciler
from polyvisor.server.bootstrap import ensure_operator, ensure_seal
from polyvisor.server.config import Config, proxies
from polyvisor.server.identity import claim
from polyvisor.store import open_store

_BOUNDLESS = Bytes(64 * TIB)  # machines that run nothing take nothing


@dataclass(frozen=True, slots=True)
class Parts:
    """What `serve` needs of the whole, and what tests want to reach into."""

    config: Config
    store: Store
    host: Host
    engine: Engine
    reconciler: Reconciler
    facts: dict[str, Any]


def utc_now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


async def make_host(config: Config, id: HostId, authority: Authority, openings: Openings) -> Host:
    """This machine as a host. :raise Unsupported: it cannot run guests, or not in that network mode."""
    paths = Paths(config.data, config.places(id))
    paths.make()
    boot = BootFiles(paths.boot, kernel=config.host.kernel, modules=config.host.modules)
    if config.host.hypervisor == "fake":
        fake, images, storage = FakeHypervisor(paths.instances), FakeImages(paths.images), FakeStorage(paths)
        return LocalHost(
            id, paths, fake, storage, UserNetwork(real=False), images, FakeBoot(paths.boot), memory=_BOUNDLESS,
            proxy=FakeProxy(), nics=HostNics(config.host_nics(), real=False),
        )  # fmt: skip
    packages, more = config.network.registries(), config.network.authorities()
    network: NetworkDriver = UserNetwork(packages, gate=Gate(openings, authority, more))
    if config.network.mode == NetworkMode.BRIDGE:
        gate = SharedGate(openings, authority, more)
        network = BridgeNetwork(paths, config.default_network(), config.network.bridge, packages, gate)
    bounds = Bounds(disk=parse_size(config.images.largest, "images.largest"))
    listed = frozenset(filter(None, (name.strip() for name in config.images.registries.split(","))))
    use_proxies(proxies())
    local = LocalImages(paths.images, Settings(config.images.registry, listed, bounds))
    proxy = CaddyProxy(paths.ingress, config.ingress.settings())
    qemu = await open_qemu(paths.boot)
    return LocalHost(
        id, paths, qemu, FileStorage(paths), network, local, boot, proxy=proxy, nics=HostNics(config.host_nics())
    )


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Parts]:
    """The whole, from the first look at the machines until everything is let go. Machines run on."""
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.data.chmod(0o700)
    lock = _lock(config.data)
    store = await open_store(config.store_url)
    try:
        await claim(config.data, store)
        facts = await ensure_operator(store, config.data, utc_now)
        seal = Seal(ensure_seal(config.data))
        authority = Authority(Paths(config.data).vaults)
        openings = Openings(store, utc_now, seal)
        host = await make_host(config, await store.host_id(), authority, openings)
        uploads = config.data / "uploads"
        uploads.mkdir(mode=0o700, exist_ok=True)
        for left in uploads.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        engine = Engine(
            store,
            host,
            config.default_network(),
            utc_now,
            uploads,
            config.templates.pool,
            config.memory.packing(),
            config.memory.reclaim(),
            facts["jwt_secret"],
            config.ingress.tls(),
            HttpCourier(),
            dns=NameServers(config.instavm.resolvers()),
            seal=seal,
            authority=authority,
            openings=openings,
            build_secrets=config.hypeman.secrets(),
        )
        reconciler = Reconciler(store, host, utc_now)
        await reconciler.start()
        chores: list[asyncio.Task[None]] = []
        try:
            await engine.recover()
            await engine.power.autostart(SYSTEM)
            chores.append(asyncio.create_task(engine.keeper.run(), name="keeper"))
            chores.append(asyncio.create_task(engine.standby.follow(), name="wake on traffic"))
            yield Parts(config, store, host, engine, reconciler, facts)
        finally:
            await asyncio.gather(*(end() for end in engine.ends), return_exceptions=True)
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            for part in (engine.health, engine.pushes, engine.forks, engine.endings, engine.audit):
                await part.close()
            await reconciler.close()
            async with store.read() as unit:
                idle = not await unit.instances.all()
            await host.close(idle=idle)
            await openings.close()
    finally:
        await store.close()
        lock.close()


def _lock(data: Path) -> TextIO:
    """One server per data directory. :raise Busy: another one runs on it."""
    handle = (data / "lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise Busy(f"another polyvisor server uses {data}") from error
    return handle
