"""`Client`: one attribute per noun."""

from __future__ import annotations

from types import TracebackType

from polyvisor.client.access import Audit, Grants, Keys, Projects, Sessions, SshKeys, Users
from polyvisor.client.events import Events
from polyvisor.client.files import Files
from polyvisor.client.ingresses import Ingresses
from polyvisor.client.instances import Instances
from polyvisor.client.link import Link
from polyvisor.client.snapshots import Schedules, Snapshots, Templates
from polyvisor.client.tasks import Tasks
from polyvisor.client.things import Hosts, Images, Operations, Volumes


class Client:
    """A server at `url`, asked with an API key or a session's token. `ca_file` is whose certificates are believed, for
    https; `project` is where to act, if not in the key's own."""

    def __init__(self, url: str, key: str, *, ca_file: str = "", project: str = "") -> None:
        self._link = Link(url, key, ca_file, project)
        self.instances = Instances(self._link)
        self.files = Files(self._link)
        self.volumes = Volumes(self._link)
        self.snapshots = Snapshots(self._link)
        self.templates = Templates(self._link)
        self.schedules = Schedules(self._link)
        self.tasks = Tasks(self._link)
        self.ingresses = Ingresses(self._link)
        self.images = Images(self._link)
        self.hosts = Hosts(self._link)
        self.operations = Operations(self._link)
        self.events = Events(self._link)
        self.sessions = Sessions(self._link)
        self.projects = Projects(self._link)
        self.users = Users(self._link)
        self.grants = Grants(self._link)
        self.keys = Keys(self._link)
        self.ssh_keys = SshKeys(self._link)
        self.audit = Audit(self._link)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()
