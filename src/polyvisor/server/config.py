"""Settings: a TOML file, then `POLYVISOR_SECTION__KEY` variables, then flags. Read once, frozen, passed down.

This is the only module that reads the environment.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from polyvisor.model.faults import Invalid
from polyvisor.model.network import Network, NetworkMode
from polyvisor.model.units import parse_size

_PREFIX = "POLYVISOR_"


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
    """`mode` is `user` or `bridge`; `subnet` empty: the mode's own. `bridge` names the device in bridge mode."""

    mode: str = "user"
    subnet: str = ""
    bridge: str = "polyvisor0"


@dataclass(frozen=True, slots=True)
class ImagesConfig:
    """`registry` completes short image names, as `host[/namespace]`; empty: none is known. `largest` limits a disk.

    `registries` are the only ones pulled from, with commas between; empty: any public one.
    """

    registry: str = ""
    registries: str = ""
    largest: str = "1T"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything."""

    server: ServerConfig = field(default_factory=ServerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    host: HostConfig = field(default_factory=HostConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)

    @property
    def data(self) -> Path:
        """The data directory."""
        return Path(self.server.data).absolute() if self.server.data else default_data()

    @property
    def store_url(self) -> str:
        """The store's address."""
        return self.store.url or f"sqlite+aiosqlite:///{self.data / 'polyvisor.db'}"

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
    parse_size(config.images.largest, "images.largest")
    if config.host.hypervisor not in ("qemu", "fake"):
        raise Invalid(
            f"host.hypervisor: {config.host.hypervisor!r} is not installed (qemu, fake)", field="host.hypervisor"
        )
    return config


def _build(tree: Mapping[str, Any]) -> Config:
    config = Config()
    sections = {f.name: getattr(config, f.name) for f in fields(config) if is_dataclass(getattr(config, f.name))}
    for name, values in tree.items():
        if name not in sections or not isinstance(values, dict):
            raise Invalid(f"{name}: there is no such section", field=name)
        known = get_type_hints(type(sections[name]))
        for key, value in values.items():
            if key not in known:
                raise Invalid(f"{name}.{key}: there is no such setting", field=f"{name}.{key}")
            if not isinstance(value, known[key]):
                raise Invalid(f"{name}.{key}: must be {known[key].__name__}", field=f"{name}.{key}")
        sections[name] = replace(sections[name], **values)
    return replace(config, **sections)
