"""What is done to a guest's requests, as the records have it at this moment, and the log of those."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from polyvisor.access.seal import Seal
from polyvisor.model.faults import Fault, NotFound
from polyvisor.model.ids import InstanceId
from polyvisor.model.vault import Opening, VaultRequest, chosen, opening, written_for
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
_PAUSE = 0.5  # seconds in which requests are gathered
_MOST_WAITING = 10_000


class Openings:
    """See `ports.vaults.Vaults`."""

    def __init__(self, store: Store, clock: Callable[[], datetime], seal: Seal) -> None:
        self._store = store
        self._clock = clock
        self._seal = seal
        self._seen: list[VaultRequest] = []
        self._writing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def opening(self, id: InstanceId, host: str) -> Opening | None:
        """See Vaults. A vault of another project is none of the instance's, whatever its record says."""
        async with self._store.read() as unit:
            try:
                instance = await unit.instances.get(id)
            except NotFound:
                return None
            order = {one.vault: place for place, one in enumerate(instance.spec.vaults)}
            own = [one.id for one in await unit.vaults.those(order) if one.project == instance.project]
            services = await unit.vaults.services(own, written_for(host)) if own else []
            service = chosen(sorted(services, key=lambda one: order[one.vault]), host)
            if service is None:
                return None
            credentials = await unit.vaults.credentials([service.vault], service.auth.names)
        try:
            values = {one.name: self._seal.reveal(one.sealed, one.id) for one in credentials if one.enabled}
        except Fault as fault:
            log.error("a credential cannot be used: %s", fault.private)
            return None
        return opening(service, values)

    def note(self, opening: Opening, host: str, status: int) -> None:
        """See Vaults."""
        if len(self._seen) < _MOST_WAITING:
            self._seen.append(VaultRequest(opening.vault, self._clock(), host, status, opening.credential))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._later(), name="vault requests")

    async def _later(self) -> None:
        await asyncio.sleep(_PAUSE)
        try:
            await self.flush()
        except Fault as fault:
            log.error("requests of vaults cannot be written down: %s %s", fault.public, fault.private)

    async def flush(self) -> None:
        """Once all that was noted is written."""
        async with self._turn:
            seen, self._seen = self._seen, []
            if seen:
                async with self._store.write() as unit:
                    await unit.vaults.note(seen)

    async def close(self) -> None:
        """The server goes: what was noted is written."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        try:
            await self.flush()
        except Fault as fault:
            log.error("requests of vaults cannot be written down: %s %s", fault.public, fault.private)
