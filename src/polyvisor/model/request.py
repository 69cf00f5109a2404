"""What a caller asks for when it creates an instance: a dialect fills this in, the engine resolves it to a Spec."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyvisor.model.compression import Compression
from polyvisor.model.egress import EgressPolicy
from polyvisor.model.ending import Ending
from polyvisor.model.foreign import Foreign
from polyvisor.model.health import HealthCheck
from polyvisor.model.ids import VaultId
from polyvisor.model.instance import Mount, Power
from polyvisor.model.spec import CloudInit, Display, Firmware, Port, RestartPolicy, Shape
from polyvisor.model.standby import StandbyPolicy
from polyvisor.model.units import Bytes, Seconds


@dataclass(frozen=True, slots=True)
class Create:
    """Made from an image or from a snapshot; `blank`: of neither, a machine that boots from its mounts. Every other
    field has a meaning when left out: the word of what it is made from, or a default. `foreign` is what the caller's
    dialect keeps with it. `parked`: it is to be off, so whether a host has room for it is asked when it is started.
    `resting`: that it is off is its owner's wish, too, so before its first start it does not start with the server.
    """

    image: str = ""
    name: str = ""
    vcpus: int | None = None
    memory: Bytes | None = None
    disk: Bytes | None = None
    shape: Shape | None = None
    firmware: Firmware | None = None
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cwd: str = ""
    user: str = ""
    hostname: str = ""
    network: bool | None = None
    ports: tuple[Port, ...] | None = None
    mounts: tuple[Mount, ...] = ()
    cloud_init: CloudInit = field(default=CloudInit(), repr=False)
    restart: RestartPolicy | None = None
    autostart: bool | None = None
    grace: Seconds | None = None
    lifetime: Seconds | None = None
    power: Power = Power.ON
    labels: tuple[tuple[str, str], ...] | None = None
    snapshot: str = ""
    cold: bool = False
    compression: Compression | None = None
    compression_delay: Seconds | None = None
    standby: StandbyPolicy | None = None
    disk_rate: Bytes | None = None
    download_rate: Bytes | None = None
    upload_rate: Bytes | None = None
    health: HealthCheck | None = None
    foreign: Foreign | None = None
    blank: bool = False
    parked: bool = False
    resting: bool = False
    displays: tuple[Display, ...] | None = None
    bridged: tuple[str, ...] | None = None
    tpm: bool | None = None
    ending: Ending | None = None
    egress: EgressPolicy | None = None
    vaults: tuple[VaultId, ...] | None = None
