"""`Spec`: what an instance should be. Immutable, SI units, no brand, no path of any host."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from polyvisor.model.faults import Invalid
from polyvisor.model.ids import Digest
from polyvisor.model.units import GIB, MIB, TIB, Bytes, Seconds


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
    """`attempts` 0 means without limit; a run of a minute forgets earlier attempts; each waits twice as long."""

    mode: RestartMode = RestartMode.NEVER
    attempts: int = 0
    backoff: Seconds = Seconds(1.0)


@dataclass(frozen=True, slots=True)
class Port:
    """A host port that leads to a guest port; `host` 0 lets the host choose."""

    guest: int
    host: int = 0
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class CloudInit:
    """First-boot data for a full-shape image, handed over as a NoCloud seed."""

    user_data: str = ""
    ssh_keys: tuple[str, ...] = ()
    user: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """What an instance is. `image` is the digest it was resolved to at admission."""

    image: Digest
    image_name: str
    shape: Shape
    firmware: Firmware
    vcpus: int
    memory: Bytes
    disk: Bytes
    argv: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cwd: str = ""
    user: str = ""
    hostname: str = ""
    network: bool = True
    ports: tuple[Port, ...] = ()
    cloud_init: CloudInit = field(default=CloudInit(), repr=False)
    restart: RestartPolicy = RestartPolicy()
    autostart: bool = False
    grace: Seconds = Seconds(30.0)
    labels: tuple[tuple[str, str], ...] = ()


MAX_VCPUS = 256
MIN_MEMORY = Bytes(96 * MIB)  # with less, a Debian kernel does not boot
MAX_MEMORY = Bytes(TIB)
MIN_DISK = Bytes(16 * MIB)
MAX_DISK = Bytes(16 * TIB)
MAX_LABELS = 128
MAX_GRACE = Seconds(3600.0)
DEFAULT_MEMORY = Bytes(256 * MIB)
DEFAULT_DISK = Bytes(10 * GIB)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")


def check_spec(spec: Spec) -> Spec:
    """The spec, when a host could in principle run it.

    :raise Invalid: naming the first field that is wrong.
    """
    _between(spec.vcpus, 1, MAX_VCPUS, "vcpus")
    _between(spec.memory, MIN_MEMORY, MAX_MEMORY, "memory")
    _between(spec.disk, MIN_DISK, MAX_DISK, "disk")
    if not 0 <= spec.grace <= MAX_GRACE:
        raise Invalid("grace: must be between 0 and 3600 seconds", field="grace")
    if spec.hostname and not _HOSTNAME.fullmatch(spec.hostname):
        raise Invalid("hostname: must be 1 to 63 letters, digits or '-'", field="hostname")
    _check_text(spec)
    _check_ports(spec)
    _check_restart(spec.restart)
    _check_labels(spec.labels)
    if spec.shape is Shape.FULL and (spec.argv or spec.env):
        raise Invalid("command and env: only images that are root file systems take them", field="command")
    if spec.shape is Shape.MICRO and spec.cloud_init != CloudInit():
        raise Invalid("cloud_init: only disk images take it", field="cloud_init")
    return spec


def _check_restart(policy: RestartPolicy) -> None:
    if not 0 <= policy.attempts <= 1_000_000:
        raise Invalid("restart.attempts: must be 0 (no limit) to 1000000", field="restart")
    if not 0 <= policy.backoff <= 3600:
        raise Invalid("restart.backoff: must be between 0 and 3600 seconds", field="restart")


def _check_labels(labels: tuple[tuple[str, str], ...]) -> None:
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
