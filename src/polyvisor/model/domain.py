"""Domains: names of owners' own, and what is asked and changed of them in the DNS. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from polyvisor.model.faults import Invalid

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
LONGEST = 253
DNS_PORT = 53
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\s]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Record:
    """One of a name's. `kind` is TXT, CNAME, A or AAAA."""

    name: str
    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone whose primary name server takes changes (RFC 2136) from who has that key (TSIG)."""

    server: str
    port: int
    name: str
    key_name: str
    algorithm: str
    secret: str = field(repr=False)

    def holds(self, domain: str) -> bool:
        """Whether a name is of it."""
        return domain == self.name or domain.endswith(f".{self.name}")


def parse_name(text: str, field: str) -> str:
    """A host name of two labels or more, in lower case and as DNS has it. :raise Invalid:"""
    bare = text.strip().removesuffix(".").lower()
    try:
        name = bare if bare.isascii() or len(bare) > LONGEST else bare.encode("idna").decode()
    except UnicodeError as error:
        raise Invalid(f"{field}: must be a host name such as app.example.com", field=field) from error
    labels = name.split(".")
    fits = len(labels) >= 2 and len(name) <= LONGEST and all(map(_LABEL.fullmatch, labels))
    if not fits or labels[-1].isdigit():
        raise Invalid(f"{field}: must be a host name such as app.example.com", field=field)
    return name


def parse_server(text: str, field: str) -> tuple[str, int]:
    """A name server: a name or an address, with `:port` where it is not 53. :raise Invalid:"""
    text = text.strip()
    found = _SERVER.fullmatch(text)
    if len(text) > LONGEST + len("[]:65535") or found is None or not 1 <= (port := int(found[2] or DNS_PORT)) <= 65535:
        raise Invalid(f"{field}: must be HOST or HOST:PORT; an IPv6 address is in brackets", field=field)
    return found[1].strip("[]"), port


def address_kind(text: str) -> str | None:
    """The kind of record that an address is in; None: it is a name."""
    try:
        return "A" if ipaddress.ip_address(text).version == 4 else "AAAA"
    except ValueError:
        return None
