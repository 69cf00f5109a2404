"""`Engine`: what dialects hold. One attribute per noun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

from polyvisor.access.credentials import Doorkeeper
from polyvisor.access.seal import Seal
from polyvisor.engine.allowance import AllowanceEngine
from polyvisor.engine.appliances import AppliancesEngine
from polyvisor.engine.audit import RECORDED, AuditEngine, watch
from polyvisor.engine.bindings import BindingsEngine
from polyvisor.engine.builders import BuildersEngine
from polyvisor.engine.building import Works
from polyvisor.engine.builds import BuildsEngine
from polyvisor.engine.code import CodeEngine
from polyvisor.engine.courier import CourierEngine
from polyvisor.engine.derived import DerivedEngine
from polyvisor.engine.domains import DomainsEngine
from polyvisor.engine.egress import EgressEngine
from polyvisor.engine.endings import EndingsEngine
from polyvisor.engine.events import EventsEngine
from polyvisor.engine.files import FilesEngine
from polyvisor.engine.foreigners import ForeignersEngine
from polyvisor.engine.forks import ForksEngine
from polyvisor.engine.health import HealthEngine
from polyvisor.engine.hosts import HostsEngine
from polyvisor.engine.images import ImagesEngine
from polyvisor.engine.ingress import IngressEngine
from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.keeper import Keeper
from polyvisor.engine.keys import KeysEngine, SessionsEngine
from polyvisor.engine.media import Maker, MediaEngine
from polyvisor.engine.nics import NicsEngine
from polyvisor.engine.numbers import NumbersEngine
from polyvisor.engine.openings import Openings
from polyvisor.engine.pool import PoolEngine
from polyvisor.engine.pools import PoolsEngine
from polyvisor.engine.power import PowerEngine
from polyvisor.engine.projects import Inhabitants, ProjectsEngine
from polyvisor.engine.pushes import PushesEngine
from polyvisor.engine.reclaim import ReclaimEngine
from polyvisor.engine.registry import RegistryEngine
from polyvisor.engine.reshape import ReshapeEngine
from polyvisor.engine.rights import RightsEngine
from polyvisor.engine.rows import RowsEngine
from polyvisor.engine.schedules import SchedulesEngine
from polyvisor.engine.screens import ScreensEngine
from polyvisor.engine.snapshots import SnapshotsEngine
from polyvisor.engine.ssh_keys import SshKeysEngine
from polyvisor.engine.standby import StandbyEngine
from polyvisor.engine.streams import StreamsEngine
from polyvisor.engine.tasks import TasksEngine
from polyvisor.engine.templates import TemplatesEngine
from polyvisor.engine.terminals import TerminalsEngine
from polyvisor.engine.users import GrantsEngine, UsersEngine
from polyvisor.engine.vaults import VaultsEngine
from polyvisor.engine.volumes import VolumesEngine
from polyvisor.engine.waits import Waits
from polyvisor.engine.workshop import Workshop
from polyvisor.model.compression import AS_IT_IS, Packing
from polyvisor.model.faults import Throttled, Unauthenticated
from polyvisor.model.ids import InstanceId
from polyvisor.model.ingress import TlsPolicy
from polyvisor.model.network import Network
from polyvisor.model.principal import Bearer, Credential, Principal
from polyvisor.model.reclaim import Policy
from polyvisor.ports.courier import Courier
from polyvisor.ports.dns import Dns
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store
from polyvisor.ports.vaults import Authority


class Engine:
    """The verbs over one store and its hosts."""

    def __init__(  # noqa: PLR0913 - what verbs need, and the settings they mind
        self,
        store: Store,
        host: Host,
        network: Network,
        clock: Callable[[], datetime],
        uploads: Path,
        pool: int = 0,
        packing: Packing = AS_IT_IS,
        reclaim: Policy | None = None,
        secret: str = "",
        tls: TlsPolicy | None = None,
        courier: Courier | None = None,
        dns: Dns | None = None,
        seal: Seal | None = None,
        authority: Authority | None = None,
        openings: Openings | None = None,
        build_secrets: Path | None = None,
    ) -> None:
        self.clock = clock
        self.ends: list[Callable[[], Awaitable[None]]] = []  # of what dialects have under way, when the server goes
        self._door = Doorkeeper(store, clock, secret)
        waits = Waits(store)
        self.images = ImagesEngine(store, host, clock, uploads)
        self.registry = RegistryEngine(self.images, host, clock)
        self.pushes = PushesEngine(self.images, host, clock)
        self.instances = InstancesEngine(store, host, network, clock, self.images, waits)
        self.shapes = ReshapeEngine(store, host, self.instances)
        self.power = PowerEngine(store, host, clock, self.instances, packing)
        self.pools, maker = PoolsEngine(host), Maker(store, host, clock)
        self.nics = NicsEngine(store, host, self.instances)
        self.egress = EgressEngine(store, host, self.instances, waits)
        self.volumes = VolumesEngine(store, host, clock, self.instances, self.images, maker)
        self.media = MediaEngine(host, self.pools, maker)
        self.appliances = AppliancesEngine(host, self.media)
        self._reach_in(store, host, waits)
        self._build(store, host, build_secrets)
        self.vaults = VaultsEngine(store, clock, seal)
        self.bindings = BindingsEngine(store, host, self.instances, waits, authority, openings)
        self.streams.supply = self.bindings.supply
        self.events, self.courier = EventsEngine(store), CourierEngine(store, courier)
        self.hosts, self.domains = HostsEngine(store, host), DomainsEngine(host, dns, seal, secret)
        self.foreigners, self.rows = ForeignersEngine(store), RowsEngine(store)
        self.snapshots = SnapshotsEngine(store, host, clock, self.instances, packing)
        self.forks = ForksEngine(self.instances, self.snapshots)
        self.schedules = SchedulesEngine(store, clock, self.instances, self.snapshots)
        self.tasks = TasksEngine(store, clock, self.instances, self.power, self.snapshots)
        self.endings = EndingsEngine(store, clock, self.instances, self.power, self.snapshots, self.streams)
        self.pool = PoolEngine(store, self.instances, self.power, self.streams, pool)
        self.templates = TemplatesEngine(
            store, self.instances, self.power, self.snapshots, self.streams, self.code, self.pool
        )
        self._watch_over(store, host, clock, reclaim or Policy())
        self.standby = StandbyEngine(store, host, clock, self.instances, self.power, waits, network.mode, self._watched)
        self.ingresses = IngressEngine(store, host, clock, self.instances, self.standby, tls or TlsPolicy())
        self._govern(store, host, clock)
        self.keeper = Keeper(
            store, clock, self.endings, self.snapshots, self.schedules, self.tasks, self.pool, self.reclaim,
            self.standby, self.health, self.sessions,
        )  # fmt: skip

    def _reach_in(self, store: Store, host: Host, waits: Waits) -> None:
        """What is done inside of guests, and in front of them."""
        self.streams = StreamsEngine(host, self.instances, waits)
        self.code = CodeEngine(self.instances, self.streams)
        self.files = FilesEngine(store, host, self.instances, self.streams, self.volumes)
        self.screens = ScreensEngine(host, self.instances)
        self.terminals = TerminalsEngine(self.streams, self.instances)

    def _build(self, store: Store, host: Host, secrets: Path | None) -> None:
        """What images are made of instructions with."""
        self.workshop = Workshop(self.instances, self.power)
        works = Works(host, self.images, self.volumes, self.streams, self.workshop)
        self.builders = BuildersEngine(store, self.volumes, self.clock)
        self.builds = BuildsEngine(store, self.images, works, self.builders, self.clock, secrets)
        self.ends += [self.builds.close, self.builders.close]

    def _watch_over(self, store: Store, host: Host, clock: Callable[[], datetime], reclaim: Policy) -> None:
        """What running machines have of memory, and how they are."""
        self.reclaim = ReclaimEngine(store, host, clock, reclaim)
        self.allowances = AllowanceEngine(store, host, self.instances, self.reclaim)
        self.health = HealthEngine(store, host, clock)

    def _watched(self, id: InstanceId) -> int:
        return self.streams.watched(id) + self.screens.watched(id)

    def _govern(self, store: Store, host: Host, clock: Callable[[], datetime]) -> None:
        """Who may do what, and what is written down of it."""
        inhabitants = Inhabitants(self.instances, self.power, self.volumes, self.snapshots, self.ingresses)
        self.projects = ProjectsEngine(store, clock, inhabitants)
        self.users = UsersEngine(store, clock)
        self.grants, self.derived = GrantsEngine(store), DerivedEngine(store)
        self.numbers = NumbersEngine(store)
        self.rights = RightsEngine(store, host)
        self.audit = AuditEngine(store, clock)
        self.keys = KeysEngine(store, clock)
        self.ssh_keys = SshKeysEngine(store, clock, self.instances)
        self.sessions = SessionsEngine(store, clock, self._door, self.audit)
        self.tasks.tell = self.audit.note_task
        for noun, verbs in RECORDED.items():
            watch(self.audit, getattr(self, noun), verbs)

    async def recover(self) -> None:
        """What a server had begun when it ended is done, or undone. Called once, at the server's start."""
        for noun in (
            self.volumes, self.snapshots, self.templates, self.ingresses, self.bindings, self.builders, self.builds
        ):  # fmt: skip
            await noun.recover()

    async def authenticate(self, credential: Credential | None) -> Principal:
        """The caller. :raise Unauthenticated: :raise Throttled: too many passwords were wrong."""
        try:
            return await self._door.authenticate(credential)
        except (Unauthenticated, Throttled) as fault:
            if credential is not None and credential.name:
                self.audit.note_refused(credential, fault)
            raise

    async def bearer(self, token: str, source: str = "") -> Bearer:
        """The caller that a signed token names. :raise Unauthenticated:"""
        return await self._door.bearer(token, source)
