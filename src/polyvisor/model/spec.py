"""`Spec`: what an instance should be. Immutable, SI units, no brand, no path of any host."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from polyvisor.model.compression import Compression, check_delay
from polyvisor.model.egress import EgressPolicy, check_egress
from polyvisor.model.ending import Ending, check_ending
from polyvisor.model.faults import Invalid
from polyvisor.model.health import HealthCheck, check_health
from polyvisor.model.ids import Digest
from polyvisor.model.standby import StandbyPolicy, check_standby
from polyvisor.model.units import GIB, MIB, TIB, Bytes, Seconds
from polyvisor.model.vault import MOST_BOUND, Binding

DEFAULT_GRACE = Seconds(30.0)


class Shape(StrEnum):
    """`micro`: direct kernel boot of a root file system; `full`: a PC with firmware that boots a disk."""

    MICRO = "micro"
    FULL = "full"


class Firmware(StrEnum):
    """What a full-shape machine starts from; micro has none."""

    NONE = "none"
    BIOS = "bios"
    UEFI = "uefi"


class RestartMode(StrEnum):
    """When an instance that ended by itself is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`attempts` 0 means without limit; a run as long as `stable` forgets earlier ones. Each waits twice as long as the
    one before, or, when `steady`, as long as the first."""

    mode: RestartMode = RestartMode.NEVER
    attempts: int = 0
    backoff: Seconds = Seconds(1.0)
    steady: bool = False
    stable: Seconds = Seconds(60.0)


@dataclass(frozen=True, slots=True)
class Port:
    """A host port that leads to a guest port; `host` 0 lets the host choose."""

    guest: int
    host: int = 0
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Overlay:
    """What an instance writes above a volume that it only reads: up to `size` bytes, on its own disk (ADR 29)."""

    volume: str
    size: Bytes


@dataclass(frozen=True, slots=True)
class CloudInit:
    """First-boot data for a full-shape image, handed over as a NoCloud seed. `files` are further ones of the seed, or
    others in the place of ours, by name; each with its text."""

    user_data: str = ""
    ssh_keys: tuple[str, ...] = ()
    user: str = ""
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Display:
    """A screen in pixels; `ppi` is what the guest may be told of its density. A machine shows its first one."""

    name: str
    width: int
    height: int
    ppi: int = 0


@dataclass(frozen=True, slots=True)
class Tpm:
    """A TPM 2.0. `id` names what it remembers: with another id it is another one, which remembers nothing; empty: there
    is none. One that is not `enabled` remembers, and the machine is without it."""

    id: str = ""
    enabled: bool = True


FIRST_TPM = Tpm("first")
"""Of a machine that is made with one."""


@dataclass(frozen=True, slots=True)
class Reshape:
    """What is to be different about a machine from its next start on; None: as it is. `macs` are by NIC, the network's
    first where it has that, an empty one: ours."""

    vcpus: int | None = None
    memory: Bytes | None = None
    firmware: Firmware | None = None
    network: bool | None = None
    bridged: tuple[str, ...] | None = None
    macs: tuple[str, ...] | None = None
    displays: tuple[Display, ...] | None = None
    cloud_init: CloudInit | None = field(default=None, repr=False)
    autostart: bool | None = None
    tpm: Tpm | None = None

    def told(self) -> dict[str, Any]:
        """What is said, by name."""
        return {one.name: said for one in fields(self) if (said := getattr(self, one.name)) is not None}


@dataclass(frozen=True, slots=True)
class Spec:
    """What an instance is. `image` is the digest it was resolved to at admission; empty: it has no disk of its own and
    boots what is attached to it (see `blank`).

    `origin` is the snapshot that its disk was made from, if it was made from one; that need not exist any more.
    `disk` has the room of its `overlays` in it; `own_disk` is without. `later` is what its owner has changed while it
    ran, see `then`. `allowance` is what it is left of its memory until it is off, 0: all of it (ADR 53).
    """

    image: Digest
    image_name: str
    shape: Shape
    firmware: Firmware
    vcpus: int
    memory: Bytes
    disk: Bytes
    argv: tuple[str, ...] = ()
    lead: int = 0  # how many words of argv, at its beginning, are the entry point
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cwd: str = ""
    user: str = ""
    hostname: str = ""
    network: bool = True
    ports: tuple[Port, ...] = ()
    cloud_init: CloudInit = field(default=CloudInit(), repr=False)
    restart: RestartPolicy = RestartPolicy()
    autostart: bool = False
    grace: Seconds = DEFAULT_GRACE
    labels: tuple[tuple[str, str], ...] = ()
    origin: str = ""
    compression: Compression | None = None  # of its memory's images; None: as the server has it
    compression_delay: Seconds | None = None  # of standby's
    standby: StandbyPolicy | None = None  # by idleness
    disk_rate: Bytes = Bytes(0)  # bytes a second of all its disks together; 0: as fast as it goes
    download_rate: Bytes = Bytes(0)  # bytes a second that come to it
    upload_rate: Bytes = Bytes(0)  # bytes a second that it sends
    health: HealthCheck | None = None
    bare: bool = False  # a machine that is to become a template: nothing of anybody's is in it
    overlays: tuple[Overlay, ...] = ()
    displays: tuple[Display, ...] = ()
    bridged: tuple[str, ...] = ()  # NICs of the host that it has one of its own on, beside its `network`
    macs: tuple[str, ...] = ()  # its NICs' addresses where they are not ours to choose, see `Reshape`
    tpm: Tpm = Tpm()
    ending: Ending = Ending()
    egress: EgressPolicy | None = None  # what it may reach; None: what its network reaches
    vaults: tuple[Binding, ...] = ()  # whose credentials it uses
    later: Reshape | None = None
    allowance: Bytes = Bytes(0)

    @property
    def then(self) -> Spec:
        """What it is from its next start on."""
        if self.later is None and not self.allowance:
            return self
        return replace(self, **(self.later or Reshape()).told(), later=None, allowance=Bytes(0))

    @property
    def usable(self) -> Bytes:
        """Bytes of memory that its guest may use now."""
        return self.allowance or self.memory

    @property
    def own_disk(self) -> Bytes:
        """Bytes of its disk that are not kept for overlays."""
        return Bytes(self.disk - room_for(self.overlays))

    @property
    def has_tpm(self) -> bool:
        """Whether there is one in its machine."""
        return bool(self.tpm.id) and self.tpm.enabled

    @property
    def blank(self) -> bool:
        """Whether there is nothing in it but the volumes that are attached; none of our agents either."""
        return not self.image

    @property
    def seeded(self) -> bool:
        """Whether it has a disk with first-boot data."""
        return self.shape is Shape.FULL and (not self.blank or self.cloud_init != CloudInit())


def room_for(overlays: tuple[Overlay, ...]) -> Bytes:
    """Bytes of a disk on which these overlays are: what is known of their blocks as well."""
    return Bytes(sum(one.size + one.size // 64 + 4 * MIB for one in overlays))


MAX_VCPUS = 256
MIN_MEMORY = Bytes(96 * MIB)  # with less, a Debian kernel does not boot
MAX_MEMORY = Bytes(TIB)
MIN_DISK = Bytes(16 * MIB)
MAX_DISK = Bytes(16 * TIB)
MAX_LABELS = 128
MIN_RATE = Bytes(1024)
MAX_RATE = Bytes(10**12)
MAX_GRACE = Seconds(3600.0)
MAX_DISPLAYS = 16
MAX_BRIDGED = 8
MIN_SIDE, MAX_SIDE = 64, 4096
MAX_PPI = 10_000
DEFAULT_MEMORY = Bytes(256 * MIB)
DEFAULT_DISK = Bytes(10 * GIB)
MAX_SEED_FILES = 32
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SEED_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TPM = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")


def check_spec(spec: Spec) -> Spec:
    """The spec, when a host could in principle run it.

    :raise Invalid: naming the first field that is wrong.
    """
    _between(spec.vcpus, 1, MAX_VCPUS, "vcpus")
    _between(spec.memory, MIN_MEMORY, MAX_MEMORY, "memory")
    if spec.allowance:
        _between(spec.allowance, MIN_MEMORY, spec.memory, "memory")
    if spec.blank:
        _between(spec.disk, 0, 0, "disk")
    else:
        _between(spec.own_disk, MIN_DISK, MAX_DISK, "disk")
    _check_overlays(spec)
    if not 0 <= spec.grace <= MAX_GRACE:
        raise Invalid("grace: must be between 0 and 3600 seconds", field="grace")
    if spec.hostname and not _HOSTNAME.fullmatch(spec.hostname):
        raise Invalid("hostname: must be 1 to 63 letters, digits or '-'", field="hostname")
    _check_text(spec)
    _check_ports(spec)
    _check_restart(spec.restart)
    _check_rates(spec)
    _check_displays(spec)
    _check_bridged(spec)
    _check_macs(spec.macs)
    _check_tpm(spec)
    check_ending(spec.ending)
    check_seed(spec.cloud_init)
    if spec.health is not None:
        check_health(spec.health, network=spec.network)
    _check_egress(spec)
    check_labels(spec.labels)
    if spec.standby is not None:
        check_standby(spec.standby)
    if spec.compression_delay is not None:
        check_delay(spec.compression_delay)
    if spec.shape is Shape.FULL and (spec.argv or spec.env):
        raise Invalid("command and env: only images that are root file systems take them", field="command")
    if spec.shape is Shape.MICRO and spec.cloud_init != CloudInit():
        raise Invalid("cloud_init: only disk images take it", field="cloud_init")
    return spec


def _check_egress(spec: Spec) -> None:
    if spec.egress is not None:
        check_egress(spec.egress)
        if spec.bridged:
            text = "egress: a machine on a network of the host's reaches what that network reaches"
            raise Invalid(text, field="egress")
    if len(spec.vaults) > MOST_BOUND:
        raise Invalid(f"vaults: there are more than {MOST_BOUND}", field="vaults")
    if spec.vaults and (spec.bridged or not spec.network):
        raise Invalid("vaults: only a machine on a network of ours uses credentials", field="vaults")


def _check_overlays(spec: Spec) -> None:
    for one in spec.overlays:
        if not MIN_DISK <= one.size <= MAX_DISK:
            text = f"volumes: an overlay of {one.size} bytes is not between {MIN_DISK} and {MAX_DISK}"
            raise Invalid(text, field="volumes", subject=one.volume)
    if spec.overlays and spec.shape is Shape.FULL:
        raise Invalid("volumes: a disk image's system makes its overlays itself", field="volumes")


def _check_restart(policy: RestartPolicy) -> None:
    if not 0 <= policy.attempts <= 1_000_000:
        raise Invalid("restart.attempts: must be 0 (no limit) to 1000000", field="restart")
    if not 0 <= policy.backoff <= 3600:
        raise Invalid("restart.backoff: must be between 0 and 3600 seconds", field="restart")


def _check_bridged(spec: Spec) -> None:
    if len(spec.bridged) > MAX_BRIDGED:
        raise Invalid(f"nics: there are more than {MAX_BRIDGED}", field="nics")
    if spec.bridged and spec.shape is Shape.MICRO and not spec.network:
        raise Invalid("nics: a root file system's kernel has a driver for them only with a network", field="nics")


def _check_macs(macs: tuple[str, ...]) -> None:
    given = [mac for mac in macs if mac]
    if any(not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 for mac in given) or len(set(given)) != len(given):
        text = "macs: must be six pairs of hexadecimal digits with colons, none of them twice and no group's"
        raise Invalid(text, field="macs")


def _check_tpm(spec: Spec) -> None:
    if spec.tpm.id and spec.shape is not Shape.FULL:
        raise Invalid("tpm: only machines with firmware have one", field="tpm")
    if spec.tpm.id and not _TPM.fullmatch(spec.tpm.id):
        raise Invalid("tpm: its id has 1 to 64 small letters, digits and '-'", field="tpm")


def check_seed(wanted: CloudInit) -> None:
    """:raise Invalid: a seed cannot have these files."""
    if len({name for name, _ in wanted.files}) != len(wanted.files) or len(wanted.files) > MAX_SEED_FILES:
        raise Invalid(f"cloud_init: at most {MAX_SEED_FILES} files, none of them twice", field="cloud_init")
    for name, text in wanted.files:
        if not _SEED_FILE.fullmatch(name) or name in ("agent", "agent.service") or "\0" in text:
            raise Invalid(f"cloud_init: {name[:80]!r} cannot be a file of the seed", field="cloud_init")


def _check_displays(spec: Spec) -> None:
    if len(spec.displays) > MAX_DISPLAYS:
        raise Invalid(f"displays: there are more than {MAX_DISPLAYS}", field="displays")
    if spec.displays and spec.shape is not Shape.FULL:
        raise Invalid("displays: only machines with firmware have a screen", field="displays")
    if len({display.name for display in spec.displays}) != len(spec.displays):
        raise Invalid("displays: two have one name", field="displays")
    for display in spec.displays:
        if not 1 <= len(display.name) <= 64 or "\0" in display.name:
            raise Invalid("displays: a name has 1 to 64 characters", field="displays")
        if not (MIN_SIDE <= display.width <= MAX_SIDE and MIN_SIDE <= display.height <= MAX_SIDE):
            raise Invalid(f"displays: width and height must be {MIN_SIDE} to {MAX_SIDE} pixels", field="displays")
        if not 0 <= display.ppi <= MAX_PPI:
            raise Invalid(f"displays: ppi must be 0 (nothing is said) to {MAX_PPI}", field="displays")


def _check_rates(spec: Spec) -> None:
    rates = {name: getattr(spec, name) for name in ("disk_rate", "download_rate", "upload_rate")}
    for name, rate in rates.items():
        if rate and not MIN_RATE <= rate <= MAX_RATE:
            raise Invalid(f"{name}: must be 0 (no limit) or {MIN_RATE} to {MAX_RATE} bytes a second", field=name)
        if rate and name != "disk_rate" and not spec.network:
            raise Invalid(f"{name}: the instance has no network", field=name)


def check_labels(labels: tuple[tuple[str, str], ...]) -> None:
    """:raise Invalid: too many, or one that cannot be kept."""
    if len(labels) > MAX_LABELS:
        raise Invalid(f"labels: there are more than {MAX_LABELS}", field="labels")
    if len({key for key, _ in labels}) != len(labels):
        raise Invalid("labels: one key is given twice", field="labels")
    for key, value in labels:
        if not 1 <= len(key) <= 253 or len(value) > 4096 or "\0" in key + value:
            raise Invalid("labels: a key has 1 to 253 characters, a value up to 4096, none of them NUL", field="labels")


def _between(value: int, low: int, high: int, name: str) -> None:
    if not low <= value <= high:
        raise Invalid(f"{name}: {value} is not between {low} and {high}", field=name)


def _check_text(spec: Spec) -> None:
    if any(not name or "=" in name for name, _ in spec.env):
        raise Invalid("env: a variable has no name, or one with '='", field="env")
    texts = {
        "command": spec.argv,
        "env": tuple(text for pair in spec.env for text in pair),
        "cwd": (spec.cwd,),
        "user": (spec.user,),
    }
    for name, values in texts.items():
        if any("\0" in value for value in values):
            raise Invalid(f"{name}: must not hold a NUL character", field=name)
    if sum(len(a) + len(b) for a, b in spec.env) + sum(map(len, spec.argv)) > 256 * 1024:
        raise Invalid("env: command and environment together exceed 256 KiB", field="env")
    if spec.cwd and not spec.cwd.startswith("/"):
        raise Invalid("cwd: must be an absolute path", field="cwd")


def check_env(env: tuple[tuple[str, str], ...]) -> None:
    """What a caller sets; an image's own variables may be called what they like.

    :raise Invalid: one is not a variable's name.
    """
    for name, _ in env:
        if not _ENV_NAME.fullmatch(name):
            raise Invalid(f"env: {name[:40]!r} is not a variable name", field="env")


def _check_ports(spec: Spec) -> None:
    taken = [(p.protocol, p.host) for p in spec.ports if p.host]
    if len(set(taken)) != len(taken):
        raise Invalid("ports: one host port is given twice", field="ports")
    for port in spec.ports:
        if port.protocol not in ("tcp", "udp"):
            raise Invalid("ports: protocol must be tcp or udp", field="ports")
        if not (1 <= port.guest <= 65535 and 0 <= port.host <= 65535):
            raise Invalid("ports: a port must be between 1 and 65535", field="ports")
    if spec.ports and not spec.network:
        raise Invalid("ports: the instance has no network", field="ports")
