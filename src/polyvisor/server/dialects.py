"""Settings of dialects: their sections of the file, and what is made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polyvisor.dialects.hanzo.catalog import REGIONS
from polyvisor.dialects.hanzo.settings import Settings as HanzoSettings
from polyvisor.dialects.hanzo.settings import System
from polyvisor.dialects.instavm.settings import STANDARD
from polyvisor.model.domain import address_kind, parse_name, parse_server
from polyvisor.model.faults import Invalid
from polyvisor.model.image import ImageSource, parse_reference
from polyvisor.model.ingress import HTTP_PORT
from polyvisor.model.units import Seconds, parse_duration


@dataclass(frozen=True, slots=True)
class VelocityConfig:
    """`authkey_lifetime`: for how long an authkey holds that is not renewed."""

    authkey_lifetime: str = "1h"

    def lifetime(self) -> Seconds:
        """The same in seconds. :raise Invalid:"""
        seconds = parse_duration(self.authkey_lifetime, "velocity.authkey_lifetime")
        if not 1 <= seconds <= 30 * 86400:
            raise Invalid("velocity.authkey_lifetime: must be 1s to 30 days", field="velocity.authkey_lifetime")
        return seconds


@dataclass(frozen=True, slots=True)
class HypemanConfig:
    """`build_secrets`: the directory of the secrets that builds may name; empty: there are none."""

    build_secrets: str = ""

    def secrets(self) -> Path | None:
        """:raise Invalid: it is not there."""
        if not self.build_secrets:
            return None
        path = Path(self.build_secrets)
        if not path.is_absolute() or not path.is_dir():
            text = "hypeman.build_secrets: must be the absolute path of a directory that exists"
            raise Invalid(text, field="hypeman.build_secrets")
        return path


@dataclass(frozen=True, slots=True)
class InstavmConfig:
    """`image` is what VMs are made of that name no `image_variant`, `max_lifetime` the longest that one may be asked to
    live (0: no limit), `ssh_host` where clients are told to find the SSH gateway, `share_host` where shares are told to
    be (empty: `ingress.listen`), each at one of `share_ports`. `webhooks_private`: webhooks may lead to addresses that
    only this host or its neighbours can reach.

    `domains` is the name or address that owners point their domains to (empty: they cannot bring any), `domain_port`
    where these are served. `dns`: the name servers that are asked for their records, with commas between; empty: this
    host's. `dns_private`: name servers that owners name may be ones that only this host or its neighbours can reach.
    """

    image: str = STANDARD
    max_lifetime: str = "7d"
    ssh_host: str = ""
    share_host: str = ""
    share_ports: str = "20000-29999"
    webhooks_private: bool = False
    domains: str = ""
    domain_port: int = 443
    dns: str = ""
    dns_private: bool = False

    def target(self) -> str:
        """What owners point their domains to. :raise Invalid:"""
        if not self.domains or address_kind(self.domains):
            return self.domains
        return parse_name(self.domains, "instavm.domains")

    def served_at(self) -> int:
        """The port of domains. :raise Invalid:"""
        if not 1 <= self.domain_port <= 65535 or self.domain_port == HTTP_PORT:
            text = f"instavm.domain_port: must be a port, and not {HTTP_PORT}"
            raise Invalid(text, field="instavm.domain_port")
        return self.domain_port

    def resolvers(self) -> list[tuple[str, int]]:
        """The name servers that are asked. :raise Invalid:"""
        found = [parse_server(one, "instavm.dns") for one in self.dns.split(",") if one.strip()]
        if not all(address_kind(host) for host, _ in found):
            raise Invalid("instavm.dns: must be addresses with commas between", field="instavm.dns")
        return found

    def ports(self) -> tuple[int, int]:
        """The first and the last port of shares. :raise Invalid:"""
        first, _, last = self.share_ports.partition("-")
        if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last) <= 65535):
            raise Invalid("instavm.share_ports: must be two ports with '-' between", field="instavm.share_ports")
        return int(first), int(last)


@dataclass(frozen=True, slots=True)
class VariantConfig:
    """An `image_variant` of the InstaVM API, and its image."""

    image: str = ""


@dataclass(frozen=True, slots=True)
class HanzoConfig:
    """`regions` are those that this host serves, with commas between; empty: all. `limits` of calls a minute are `told`
    with every answer, or `enforced`. `xterm`: where the files of Debian's node-xterm are.
    """

    regions: str = ""
    reads_per_minute: int = 100
    writes_per_minute: int = 30
    limits: str = "told"
    xterm: str = "/usr/share/nodejs/xterm"

    def settings(self, systems: Mapping[str, System]) -> HanzoSettings:
        """The same, checked. :raise Invalid:"""
        regions = tuple(filter(None, (name.strip() for name in self.regions.split(",")))) or REGIONS
        for name in regions:
            if name not in REGIONS:
                raise Invalid(f"hanzo.regions: {name!r} is not one of {', '.join(REGIONS)}", field="hanzo.regions")
        for setting in ("reads_per_minute", "writes_per_minute"):
            if getattr(self, setting) < 1:
                raise Invalid(f"hanzo.{setting}: must be 1 or more", field=f"hanzo.{setting}")
        if self.limits not in ("told", "enforced"):
            raise Invalid("hanzo.limits: must be told or enforced", field="hanzo.limits")
        enforced = self.limits == "enforced"
        return HanzoSettings(
            regions, systems, self.reads_per_minute, self.writes_per_minute, enforced, Path(self.xterm)
        )


@dataclass(frozen=True, slots=True)
class OsImageConfig:
    """What an `os` of the Hanzo dialect is made from: `image`, a name that this host knows, or a disk image in a `file`
    or at a `url`, with its `sha256`.
    """

    image: str = ""
    file: str = ""
    url: str = ""
    sha256: str = ""

    def system(self, name: str) -> System:
        """The same, checked. :raise Invalid:"""
        where = f"os_images.{name}"
        if not re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", name) or len(name) > 63:
            raise Invalid(f"{where}: an os has 1 to 63 small letters, digits and single '.', '_', '-'", field=where)
        if sum(map(bool, (self.image, self.file, self.url))) != 1:
            raise Invalid(f"{where}: must have an image, a file or a url, and one of these alone", field=where)
        if self.image:
            return System(str(parse_reference(self.image, field=f"{where}.image").short))
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise Invalid(f"{where}.sha256: must be 64 hexadecimal digits in lower case", field=f"{where}.sha256")
        if self.file and not Path(self.file).is_absolute():
            raise Invalid(f"{where}.file: must be an absolute path", field=f"{where}.file")
        if self.url and not self.url.startswith(("https://", "http://")):
            raise Invalid(f"{where}.url: must be an http or https URL", field=f"{where}.url")
        return System(source=ImageSource(self.sha256, self.file, self.url))
