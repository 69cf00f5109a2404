"""`Client`: one attribute per noun."""

from __future__ import annotations

from types import TracebackType

from polyvisor.client.events import Events
from polyvisor.client.files import Files
from polyvisor.client.instances import Instances
from polyvisor.client.link import Link
from polyvisor.client.things import Hosts, Images, Operations, Volumes


class Client:
    """A server at `url`, asked with an API key. `ca_file` is whose certificates are believed, for https."""

    def __init__(self, url: str, key: str, *, ca_file: str = "") -> None:
        self._link = Link(url, key, ca_file)
        self.instances = Instances(self._link)
        self.files = Files(self._link)
        self.volumes = Volumes(self._link)
        self.images = Images(self._link)
        self.hosts = Hosts(self._link)
        self.operations = Operations(self._link)
        self.events = Events(self._link)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()
