"""Settings: a TOML file, then `POLYVISOR_SECTION__KEY` variables, then flags. Read once, frozen, passed down.

This is the only module that reads the environment.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from polyvisor.dialects.hanzo.settings import BUILT_IN
from polyvisor.dialects.hanzo.settings import Settings as HanzoSettings
from polyvisor.dialects.instavm.settings import STANDARD
from polyvisor.dialects.instavm.settings import Settings as Sandboxes
from polyvisor.gateway.limits import Limits
from polyvisor.host.ingress import Settings
from polyvisor.host.network.packages import registries
from polyvisor.host.paths import Place
from polyvisor.model.compression import Packing, check_delay, parse_compression
from polyvisor.model.egress import parse_domain
from polyvisor.model.faults import Invalid
from polyvisor.model.ids import check_name
from polyvisor.model.ingress import TlsPolicy
from polyvisor.model.network import HostNic, Network, NetworkMode
from polyvisor.model.reclaim import DEFAULT_FLOOR, Policy
from polyvisor.model.units import parse_duration, parse_size
from polyvisor.model.volume import DEFAULT_POOL
from polyvisor.server.dialects import (
    HanzoConfig,
    HypemanConfig,
    InstavmConfig,
    OsImageConfig,
    VariantConfig,
    VelocityConfig,
)

_PREFIX = "POLYVISOR_"
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
T = TypeVar("T")
MOST_SPARES = 100  # for each template


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`listen` and `tls_listen` are HOST:PORT; port 0 picks a free one. `data` empty: the user's data directory."""

    listen: str = "127.0.0.1:8080"
    tls_listen: str = "127.0.0.1:8443"
    data: str = ""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """`url` empty: SQLite in the data directory; else `postgresql+asyncpg://user@host/name`."""

    url: str = ""


@dataclass(frozen=True, slots=True)
class HostConfig:
    """`hypervisor` is `qemu` or `fake`. `kernel` and `initrd` empty: made from this machine's own packages."""

    hypervisor: str = "qemu"
    kernel: str = ""
    modules: str = ""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """`mode` is `user` or `bridge`; `subnet` empty: the mode's own. `bridge` names the device in bridge mode.

    `packages`: names, with commas between, that a machine may reach which may reach package registries, beside those
    that apt, pip and npm of this host are set to. `vaults_ca`: a file of certificates of authorities; hosts that
    credentials of vaults go to are believed by these too.
    """

    mode: str = "user"
    subnet: str = ""
    bridge: str = "polyvisor0"
    packages: str = ""
    vaults_ca: str = ""

    def authorities(self) -> str:
        """:raise Invalid: there is no such file, or there are no certificates in it."""
        if self.vaults_ca:
            try:
                ssl.create_default_context(cafile=self.vaults_ca)
            except (OSError, ssl.SSLError) as error:
                text = "network.vaults_ca: must be a file of certificates (PEM)"
                raise Invalid(text, field="network.vaults_ca") from error
        return self.vaults_ca

    def registries(self) -> tuple[str, ...]:
        """All of them. :raise Invalid:"""
        given = [name for name in (part.strip() for part in self.packages.split(",")) if name]
        named = [parse_domain(name, "network.packages") for name in given]
        return tuple(dict.fromkeys((*named, *registries(os.environ))))


@dataclass(frozen=True, slots=True)
class ImagesConfig:
    """`registry` completes short image names, as `host[/namespace]`; empty: none is known. `largest` limits a disk.

    `registries` are the only ones pulled from, with commas between; empty: any public one.
    """

    registry: str = ""
    registries: str = ""
    largest: str = "1T"


@dataclass(frozen=True, slots=True)
class TemplatesConfig:
    """`pool`: running copies of each template that wait to be taken; each holds memory and a little of a core."""

    pool: int = 0


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """`compression` of saved memory, and how long after a standby it begins, where no instance says otherwise.

    `reclaim_below`: guests lend memory while the host has less available than that; 0: never. `reclaim_floor`: per cent
    of its memory that each keeps.
    """

    compression: str = "none"
    compression_delay: str = "0s"
    reclaim_below: str = "0"
    reclaim_floor: int = DEFAULT_FLOOR

    def reclaim(self) -> Policy:
        """When guests lend memory, and how much. :raise Invalid:"""
        if not 10 <= self.reclaim_floor <= 100:
            raise Invalid("memory.reclaim_floor: must be 10 to 100 per cent", field="memory.reclaim_floor")
        return Policy(parse_size(self.reclaim_below, "memory.reclaim_below"), self.reclaim_floor)

    def packing(self) -> Packing:
        """What is done with saved memory. :raise Invalid:"""
        delay = parse_duration(self.compression_delay, "memory.compression_delay")
        return Packing(
            parse_compression(self.compression, "memory.compression"), check_delay(delay, "memory.compression_delay")
        )


@dataclass(frozen=True, slots=True)
class IngressConfig:
    """`listen` is the address at which the rules' ports are. `tls_domains`: for which names certificates may be had,
    with commas between; empty: for all, unless they come from a public authority, which `acme_email` or `acme_ca` (a
    directory's URL) says. Without, they come from one of the proxy's own. `acme_root`: a PEM file with the certificate
    that `acme_ca` has to show, where this host does not believe it anyway.
    """

    listen: str = "127.0.0.1"
    tls_domains: str = ""
    acme_email: str = ""
    acme_ca: str = ""
    acme_root: str = ""

    def settings(self) -> Settings:
        """What the proxy minds. :raise Invalid:"""
        try:
            ipaddress.ip_address(self.listen)
        except ValueError as error:
            raise Invalid("ingress.listen: must be an IP address", field="ingress.listen") from error
        if self.acme_ca and not self.acme_ca.startswith("https://"):
            raise Invalid("ingress.acme_ca: must be an https URL", field="ingress.acme_ca")
        if self.acme_root and not self.acme_ca:
            raise Invalid("ingress.acme_root: is for ingress.acme_ca", field="ingress.acme_root")
        try:
            roots = Path(self.acme_root).read_text() if self.acme_root else ""
        except (OSError, ValueError) as error:
            raise Invalid("ingress.acme_root: must be a file that can be read", field="ingress.acme_root") from error
        return Settings(self.listen, self.acme_email, self.acme_ca, roots)

    def tls(self) -> TlsPolicy:
        """For which names. :raise Invalid: any name would be asked of a public authority."""
        public = self.settings().public
        domains = tuple(filter(None, (name.strip().lower() for name in self.tls_domains.split(","))))
        if public and not domains:
            raise Invalid("ingress.tls_domains: needed with a public authority", field="ingress.tls_domains")
        return TlsPolicy(domains or ("*",), public)


@dataclass(frozen=True, slots=True)
class SshConfig:
    """`listen` is HOST:PORT of the SSH gateway; port 0 picks a free one, empty: there is none. `idle` is after how long
    without a word either way a connection is closed; 0: never. `user` is who one comes in as, where a guest has such a
    user; empty: always the user of its image.
    """

    listen: str = ""
    idle: str = "4h"
    user: str = "appuser"

    def limits(self) -> Limits:
        """What a connection may do. :raise Invalid:"""
        if self.user and not _USER.fullmatch(self.user):
            raise Invalid("ssh.user: must be the name of a user", field="ssh.user")
        return Limits(idle=parse_duration(self.idle, "ssh.idle"), user=self.user)


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """A directory for volumes beside the data directory's own: it must exist. `number` is how APIs with numbers call
    it, 1 or more and one's own.
    """

    path: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class NicConfig:
    """A network that machines may be put into: `bridge` is a Linux bridge that the operator has made."""

    bridge: str = ""
    number: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything."""

    server: ServerConfig = field(default_factory=ServerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    host: HostConfig = field(default_factory=HostConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    templates: TemplatesConfig = field(default_factory=TemplatesConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    velocity: VelocityConfig = field(default_factory=VelocityConfig)
    ingress: IngressConfig = field(default_factory=IngressConfig)
    instavm: InstavmConfig = field(default_factory=InstavmConfig)
    variants: Mapping[str, VariantConfig] = field(default_factory=dict)
    ssh: SshConfig = field(default_factory=SshConfig)
    pools: Mapping[str, PoolConfig] = field(default_factory=dict)
    nics: Mapping[str, NicConfig] = field(default_factory=dict)
    hanzo: HanzoConfig = field(default_factory=HanzoConfig)
    hypeman: HypemanConfig = field(default_factory=HypemanConfig)
    os_images: Mapping[str, OsImageConfig] = field(default_factory=dict)

    def hanzo_settings(self) -> HanzoSettings:
        """What the Hanzo dialect minds. :raise Invalid:"""
        return self.hanzo.settings({**BUILT_IN, **{name: one.system(name) for name, one in self.os_images.items()}})

    def places(self, owner: str) -> tuple[Place, ...]:
        """The pools, each with a folder that is `owner`'s alone: others may use the same directory. :raise Invalid:"""
        found: list[Place] = []
        for name, pool in self.pools.items():
            if check_name(name, "pools") == DEFAULT_POOL:
                raise Invalid(f"pools.{name}: the data directory is called so", field=f"pools.{name}")
            if pool.number < 1 or pool.number in {other.number for other in found}:
                text = f"pools.{name}.number: must be 1 or more, and no other pool's"
                raise Invalid(text, field=f"pools.{name}.number")
            path = Path(pool.path)
            if not path.is_absolute() or not path.is_dir():
                text = f"pools.{name}.path: must be the absolute path of a directory that exists"
                raise Invalid(text, field=f"pools.{name}.path")
            found.append(Place(name, pool.number, path, path / f"polyvisor-{owner}"))
        return tuple(found)

    def host_nics(self) -> tuple[HostNic, ...]:
        """The networks of the operator's. :raise Invalid:"""
        found: list[HostNic] = []
        for name, nic in self.nics.items():
            check_name(name, "nics")
            if nic.number < 1 or nic.number in {other.number for other in found}:
                text = f"nics.{name}.number: must be 1 or more, and no other NIC's"
                raise Invalid(text, field=f"nics.{name}.number")
            if not 1 <= len(nic.bridge) <= 15 or "/" in nic.bridge:
                raise Invalid(f"nics.{name}.bridge: must be a device's name", field=f"nics.{name}.bridge")
            found.append(HostNic(name, nic.number, nic.bridge, nic.description))
        return tuple(found)

    def sandboxes(self) -> Sandboxes:
        """What the InstaVM API minds. :raise Invalid:"""
        longest = parse_duration(self.instavm.max_lifetime, "instavm.max_lifetime")
        images = {STANDARD: self.instavm.image, **{name: one.image for name, one in self.variants.items()}}
        for name, image in images.items():
            if not image:
                raise Invalid(f"variants.{name}.image: must name an image", field=f"variants.{name}.image")
        anywhere = ipaddress.ip_address(self.ingress.settings().listen).is_unspecified
        host = self.instavm.share_host or ("" if anywhere else self.ingress.listen)
        self.instavm.resolvers()
        return Sandboxes(
            images, int(longest), self.instavm.ssh_host, host, self.instavm.ports(), self.instavm.webhooks_private,
            self.instavm.target(), self.instavm.served_at(), self.instavm.dns_private,
        )  # fmt: skip

    @property
    def data(self) -> Path:
        """The data directory."""
        return Path(self.server.data).absolute() if self.server.data else default_data()

    @property
    def store_url(self) -> str:
        """The store's address."""
        return self.store.url or f"sqlite:///{self.data / 'polyvisor.db'}"

    def default_network(self) -> Network:
        """The network instances are put in. :raise Invalid:"""
        try:
            mode = NetworkMode(self.network.mode)
            default = "10.128.0.0/9" if mode is NetworkMode.USER else "10.77.0.0/16"
            subnet = ipaddress.IPv4Network(self.network.subnet or default)
        except ValueError as error:
            raise Invalid(f"network: {error}", field="network") from error
        if subnet.prefixlen > (16 if mode is NetworkMode.USER else 28):
            raise Invalid("network.subnet: too small", field="network.subnet")
        return Network(mode, subnet)


_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def proxies() -> dict[str, str]:
    """The way out that this process was given, in both spellings: programs differ in which they read."""
    return {name: value for name, value in os.environ.items() if name.lower() in _PROXIES and value}


def default_data() -> Path:
    """Where data lives unless told otherwise: `/var/lib/polyvisor` for root, else the user's own data directory."""
    if xdg := os.environ.get("XDG_DATA_HOME"):
        return Path(xdg) / "polyvisor"
    if os.geteuid() == 0:
        return Path("/var/lib/polyvisor")
    return Path.home() / ".local/share/polyvisor"


def load(file: Path | None, flags: Mapping[str, str | None]) -> Config:
    """The settings. `flags` are keyed `section.key`; None means not given.

    :raise Invalid: naming the setting that is unknown or wrong.
    """
    tree: dict[str, dict[str, Any]] = {}
    if file is not None:
        try:
            tree = tomllib.loads(file.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Invalid(f"{file}: {error}", field="config") from error
    for name, value in os.environ.items():
        section, _, key = name.removeprefix(_PREFIX).lower().partition("__")
        if name.startswith(_PREFIX) and key:
            tree.setdefault(section, {})[key] = value
    for name, flag in flags.items():
        section, _, key = name.partition(".")
        if flag is not None:
            tree.setdefault(section, {})[key] = flag
    config = _build(tree)
    config.default_network()
    config.network.authorities()
    config.memory.packing()
    config.memory.reclaim()
    config.velocity.lifetime()
    config.ssh.limits()
    config.ingress.tls()
    config.sandboxes()
    config.places("")
    config.host_nics()
    config.hanzo_settings()
    config.hypeman.secrets()
    parse_size(config.images.largest, "images.largest")
    if not 0 <= config.templates.pool <= MOST_SPARES:
        raise Invalid(f"templates.pool: must be 0 to {MOST_SPARES}", field="templates.pool")
    if config.host.hypervisor not in ("qemu", "fake"):
        raise Invalid(
            f"host.hypervisor: {config.host.hypervisor!r} is not installed (qemu, fake)", field="host.hypervisor"
        )
    return config


def _build(tree: Mapping[str, Any]) -> Config:
    config = Config()
    sections = {f.name: getattr(config, f.name) for f in fields(config)}
    for name, values in tree.items():
        if name not in sections or not isinstance(values, dict):
            raise Invalid(f"{name}: there is no such section", field=name)
        if is_dataclass(sections[name]):
            sections[name] = _section(sections[name], values, name)
        else:
            sections[name] = _named(KINDS[name], values, name)
    return replace(config, **sections)


KINDS: Mapping[str, type[PoolConfig | NicConfig | VariantConfig | OsImageConfig]] = {
    "variants": VariantConfig,
    "pools": PoolConfig,
    "nics": NicConfig,
    "os_images": OsImageConfig,
}  # of sections with sections of the operator's naming in them, as `[pools.main]`


def _named(kind: type[T], values: Mapping[str, Any], name: str) -> dict[str, T]:
    trees: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        one, _, setting = key.partition("__")  # of a variable; a file has a section
        if setting or not isinstance(value, dict):
            value = {setting: value}
        trees.setdefault(one, {}).update(value)
    return {one: _section(kind(), tree, f"{name}.{one}") for one, tree in trees.items()}


def _section(section: T, values: Mapping[str, Any], name: str) -> T:
    known = get_type_hints(type(section))
    found = dict(values)
    for key, value in values.items():
        if key not in known:
            raise Invalid(f"{name}.{key}: there is no such setting", field=f"{name}.{key}")
        if known[key] is int and isinstance(value, str) and value.isdigit():  # a variable is a text
            found[key] = int(value)
        elif known[key] is bool and value in ("true", "false"):
            found[key] = value == "true"
        elif not isinstance(value, known[key]):
            raise Invalid(f"{name}.{key}: must be {known[key].__name__}", field=f"{name}.{key}")
    return replace(section, **found)  # type: ignore[type-var]  # a dataclass of ours
