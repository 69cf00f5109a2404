"""What a host needs now and then: files and chains that do not grow for ever, a second try once there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping

from polyvisor.host.console import trim
from polyvisor.host.paths import CONSOLE, JOURNAL, VMM_LOG, Paths
from polyvisor.model.faults import Fault
from polyvisor.model.host import Sight
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import MIB
from polyvisor.ports.hypervisor import LiveVm
from polyvisor.ports.storage import Storage

log = logging.getLogger("polyvisor.host")
EVERY = 2.0
COMPACT_EVERY = 60.0
KEPT = {CONSOLE: 4 * MIB, JOURNAL: 32 * MIB, VMM_LOG: MIB}  # up to twice that is on disk, for each machine
ROOM = 128 * MIB  # so much free makes a machine that met a full disk go on
BALLAST = 16 * MIB  # given up when guests have filled the disk, so that what happens can still be written down
_LAST = MIB // 4


class Upkeep:
    """A task for all machines of a host, and one for its disks."""

    def __init__(
        self, paths: Paths, storage: Storage, vms: Mapping[InstanceId, LiveVm], hint: Callable[[InstanceId], None]
    ) -> None:
        self._paths = paths
        self._storage = storage
        self._vms = vms
        self._hint = hint
        self._short = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Until `close`."""
        self._tasks = [asyncio.create_task(job(), name=job.__name__) for job in (self._run, self._compact)]

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._trim, list(self._vms))
                await asyncio.to_thread(self._balance)
                await self._go_on()
            except OSError as error:
                log.warning("upkeep: %s", error)
            await asyncio.sleep(EVERY)

    async def _compact(self) -> None:
        while True:
            await asyncio.sleep(COMPACT_EVERY)
            try:
                await self._storage.compact()
            except (Fault, OSError) as error:
                log.warning("disks are not compacted: %s", getattr(error, "private", "") or error)

    def _trim(self, ids: list[InstanceId]) -> None:
        for id in ids:
            for name, keep in KEPT.items():
                trim(self._paths.instance(id) / name, keep)

    def _balance(self) -> None:
        free, ballast = self._storage.free(), self._paths.ballast
        was_short, self._short = self._short, free < _LAST
        if self._short and was_short and ballast.exists():  # who still writes would only have eaten it up as well
            log.error("the disk is full: %d bytes kept for this are given up", BALLAST)
            ballast.unlink()
        elif free > ROOM and not ballast.exists():
            part = ballast.with_suffix(".part")
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, BALLAST)
            part.rename(ballast)

    async def _go_on(self) -> None:
        """Machines that the hypervisor stopped because the disk was full."""
        stuck = {id: vm for id, vm in self._vms.items() if vm.trouble}
        if not stuck or self._storage.free() < ROOM:
            return
        for id, vm in stuck.items():
            with contextlib.suppress(Fault):
                if await vm.status() is Sight.PAUSED and vm.trouble:
                    await vm.resume()
                    self._hint(id)

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
