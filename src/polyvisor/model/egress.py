"""`EgressPolicy`: what a machine may reach, and what that means. Pure.

Lists that are not empty are all there is: a name or a range that is in none of them is out of reach, whatever the flags
say. Without lists the flags decide: both are the whole world, one is its port, none is nothing. Package registries are
reached beside that. Some things no policy opens: the host's own addresses, link-local ones, other machines.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polyvisor.model.faults import Invalid

MAX_DOMAINS = 256
MAX_CIDRS = 256
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LONGEST = 253
HTTP, HTTPS = 80, 443


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """`domains` are names, each with all below it; `cidrs` are ranges of addresses. Both as `parse_*` leaves them."""

    allow_http: bool = True
    allow_https: bool = True
    allow_package_managers: bool = True
    domains: tuple[str, ...] = ()
    cidrs: tuple[str, ...] = ()

    @property
    def listed(self) -> bool:
        """Whether only what is listed is reached."""
        return bool(self.domains or self.cidrs)

    @property
    def open(self) -> bool:
        """Whether the world is reached as a whole, at every port and by every name."""
        return not self.listed and self.allow_http and self.allow_https

    @property
    def ports(self) -> tuple[int, ...]:
        """Where only ports are closed: those that are not."""
        if self.listed or self.open:
            return ()
        return (HTTP,) * self.allow_http + (HTTPS,) * self.allow_https

    def names(self, packages: Sequence[str]) -> tuple[str, ...]:
        """The names whose addresses are reached; `packages` are those of this host's package registries."""
        if self.open:
            return ()
        return tuple(dict.fromkeys((*self.domains, *(packages if self.allow_package_managers else ()))))

    @property
    def resolves_all(self) -> bool:
        """Whether every name may be asked for: where only ports are closed, any of them may be meant."""
        return self.open or bool(self.ports)

    def resolves(self, name: str, packages: Sequence[str] = ()) -> bool:
        """Whether the name may be asked for."""
        return self.resolves_all or any(is_below(name, above) for above in self.names(packages))

    def reaches(self, address: str, port: int, known_as: Iterable[str] = (), packages: Sequence[str] = ()) -> bool:
        """Whether that port of a public address is reached, which was the answer for those names."""
        if self.open:
            return True
        if port in (53, 853):
            return False
        given = ipaddress.ip_address(address)
        return (
            port in self.ports
            or any(given in ipaddress.ip_network(cidr) for cidr in self.cidrs)
            or any(is_below(name, above) for name in known_as for above in self.names(packages))
        )


OPEN = EgressPolicy()
"""The whole world, and a machine that can be told otherwise while it runs."""


def is_below(name: str, above: str) -> bool:
    """Whether it is that name, or one below it."""
    return name == above or name.endswith("." + above)


def parse_domain(text: str, field: str = "domains") -> str:
    """A name as DNS has it, without the `*.` that may stand before it. :raise Invalid:"""
    bare = text.strip().removeprefix("*.").removesuffix(".").lower()
    try:
        name = bare if bare.isascii() or len(bare) > _LONGEST else bare.encode("idna").decode()
    except UnicodeError as error:
        raise Invalid(f"{field}: {text[:80]!r} is not a name", field=field) from error
    labels = name.split(".")
    if len(name) > _LONGEST or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise Invalid(f"{field}: {text[:80]!r} is not a name", field=field)
    return name


def parse_cidr(text: str, field: str = "cidrs") -> str:
    """A range of addresses, or one. :raise Invalid:"""
    try:
        if "%" in text:
            raise ValueError("no range is a device's")
        return str(ipaddress.ip_network(text.strip(), strict=False))
    except ValueError as error:
        raise Invalid(f"{field}: {text[:80]!r} is not a range of addresses", field=field) from error


def parse_policy(  # noqa: PLR0913 - its fields
    *, allow_http: bool, allow_https: bool, allow_package_managers: bool, domains: Sequence[str], cidrs: Sequence[str],
    domains_field: str = "domains", cidrs_field: str = "cidrs",
) -> EgressPolicy:  # fmt: skip
    """The policy of what a caller wrote; a name or range that is there twice counts once.

    :raise Invalid: naming the field as the caller calls it.
    """
    for field, given, most in ((domains_field, domains, MAX_DOMAINS), (cidrs_field, cidrs, MAX_CIDRS)):
        if len(given) > most:
            raise Invalid(f"{field}: there are more than {most}", field=field)
    return EgressPolicy(
        allow_http, allow_https, allow_package_managers,
        tuple(dict.fromkeys(parse_domain(text, domains_field) for text in domains)),
        tuple(dict.fromkeys(parse_cidr(text, cidrs_field) for text in cidrs)),
    )  # fmt: skip


def check_egress(policy: EgressPolicy) -> EgressPolicy:
    """The policy, when it is one that `parse_policy` makes. :raise Invalid: naming the field."""
    return parse_policy(
        allow_http=policy.allow_http, allow_https=policy.allow_https,
        allow_package_managers=policy.allow_package_managers, domains=policy.domains, cidrs=policy.cidrs,
        domains_field="egress.domains", cidrs_field="egress.cidrs",
    )  # fmt: skip


def mark_of(policy: EgressPolicy | None, *, opened: bool = False) -> str:
    """A short name for what is in force, for who waits until it is; of no policy, an empty one. `opened`: some of what
    it says to the world is opened on its way, to put credentials in."""
    mark = "" if policy is None else hashlib.sha256(repr(policy).encode()).hexdigest()[:16]
    return mark + "+vaults" if opened else mark
