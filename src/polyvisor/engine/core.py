"""`Engine`: what dialects hold. One attribute per noun."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from polyvisor.access.credentials import Credential, Doorkeeper
from polyvisor.engine.events import EventsEngine
from polyvisor.engine.hosts import HostsEngine
from polyvisor.engine.images import ImagesEngine
from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.keeper import Keeper
from polyvisor.engine.power import PowerEngine
from polyvisor.engine.streams import StreamsEngine
from polyvisor.engine.volumes import VolumesEngine
from polyvisor.engine.waits import Waits
from polyvisor.model.network import Network
from polyvisor.model.principal import Principal
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store


class Engine:
    """The verbs over one store and its hosts."""

    def __init__(
        self, store: Store, host: Host, network: Network, clock: Callable[[], datetime], uploads: Path
    ) -> None:
        self._door = Doorkeeper(store, clock)
        waits = Waits(store)
        self.images = ImagesEngine(store, host, clock, uploads)
        self.instances = InstancesEngine(store, host, network, clock, self.images, waits)
        self.power = PowerEngine(store, clock, self.instances)
        self.volumes = VolumesEngine(store, host, clock, self.instances)
        self.streams = StreamsEngine(host, self.instances, waits)
        self.events = EventsEngine(store)
        self.hosts = HostsEngine(store, host)
        self.keeper = Keeper(store, clock, self.power)

    async def authenticate(self, credential: Credential | None) -> Principal:
        """The caller. :raise Unauthenticated:"""
        return await self._door.authenticate(credential)
