"""Ingresses: which HTTP requests to this host are answered by which instance. Pure.

A host name is a text of labels with dots between, each either literal or a capture in braces: `{instance}.example.com`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from polyvisor.model.faults import Invalid
from polyvisor.model.ids import IngressId, InstanceId, ProjectId

MAX_RULES = 100
HTTP_PORT = 80
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LONGEST_HOST = 253
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
# Visible, and none of the characters that mean something where the proxy compares.
_SECRET = re.compile(r"[!-)+-z|~]{32,256}")
_RESERVED = frozenset({
    "authorization", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect",
    "forwarded", "host", "keep-alive", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade", "via",
    "www-authenticate", "x-real-ip",
})  # fmt: skip
_RESERVED_BEGINNINGS = ("proxy-", "sec-websocket-", "x-forwarded-")


@dataclass(frozen=True, slots=True)
class Guard:
    """A request header that has to have this very value; who sends another gets 403. The guest does not see it."""

    header: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests for `hostname` at `port` of this host go to `target_port` of an instance.

    `instance` names it: one name, or a capture of `hostname`. `pinned` is the one that had that name when the ingress
    was made; where it is gone, the one that has the name then is meant. `tls`: the proxy ends it. `redirect`: who asks
    at port 80 is sent to the TLS port.
    """

    hostname: str
    instance: str
    target_port: int
    port: int = HTTP_PORT
    tls: bool = False
    redirect: bool = False
    guard: Guard | None = None
    pinned: InstanceId | None = None

    @property
    def pattern(self) -> bool:
        """Whether the host name has captures."""
        return "{" in self.hostname

    @property
    def site(self) -> str:
        """The names that it is for: in lower case, `*` for what is captured. Different sites may overlap."""
        return ".".join("*" if _CAPTURE.fullmatch(part) else part.lower() for part in self.hostname.split("."))

    def called(self, host: str) -> str | None:
        """The name of the instance that a request for `host` is for; None: the rule is not for that host."""
        host = host.lower().rstrip(".")
        asked, ours = host.split("."), self.hostname.split(".")
        if len(asked) != len(ours) or not all(asked):
            return None
        found = {}
        for part, label in zip(ours, asked, strict=True):
            capture = _CAPTURE.fullmatch(part)
            if capture is not None:
                found[part] = label
            elif part.lower() != label:
                return None
        return found.get(self.instance, self.instance)


@dataclass(frozen=True, slots=True)
class Ingress:
    """Some rules that come and go together."""

    id: IngressId
    project: ProjectId
    name: str
    rules: tuple[Rule, ...]
    created: datetime
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One rule where it is: `number` counts within its ingress."""

    ingress: IngressId
    number: int
    rule: Rule


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """For which names TLS may be asked: names, `*.example.com` for what is one label longer, `*` for all. `public`: the
    certificates are a public authority's, which gives none for wildcards without a say in the zone."""

    domains: tuple[str, ...] = ("*",)
    public: bool = False

    def allows(self, site: str) -> bool:
        """Whether certificates may be had for it."""
        parent = site.partition(".")[2]
        return any(one in ("*", site) or (one.startswith("*.") and one[2:] == parent) for one in self.domains)


@dataclass(frozen=True, slots=True)
class Certificate:
    """How it stands with the certificate of a name, and whether the name is served. `until`: its end, where there is
    one in force. `error`: why there is none, as far as it is known."""

    until: datetime | None = None
    key: bool = False
    served: bool = False
    error: str = ""

    @property
    def issued(self) -> bool:
        """Whether who asks for the name with TLS is answered."""
        return self.until is not None and self.key and self.served


def routes_of(ingresses: Sequence[Ingress]) -> list[Route]:
    """Every rule of them."""
    return [Route(one.id, number, rule) for one in ingresses for number, rule in enumerate(one.rules)]


def overlap(site: str, other: str) -> bool:
    """Whether there is a host name that both are for."""
    ours, theirs = site.split("."), other.split(".")
    return len(ours) == len(theirs) and all(a == b or "*" in (a, b) for a, b in zip(ours, theirs, strict=True))


def check_rules(rules: Sequence[Rule]) -> None:
    """:raise Invalid: naming the rule and its field."""
    if not 1 <= len(rules) <= MAX_RULES:
        raise Invalid(f"rules: must be 1 to {MAX_RULES}", field="rules.length")
    for number, rule in enumerate(rules):
        for name, why in _wrong(rule):
            where = f"rules[{number}].{name}"
            raise Invalid(f"{where}: {why}", field=where)


def _wrong(rule: Rule) -> list[tuple[str, str]]:
    """What is wrong with it, as (field, reason)."""
    if why := _wrong_host(rule.hostname):
        return [("hostname", why)]
    found = []
    for name in ("port", "target_port"):
        if not 1 <= getattr(rule, name) <= 65535:
            found.append((name, "must be 1 to 65535"))
    captures = [part for part in rule.hostname.split(".") if part.startswith("{")]
    refers = _CAPTURE.fullmatch(rule.instance)
    if not rule.instance:
        found.append(("instance", "must name an instance"))
    elif refers is not None and rule.instance not in captures:
        found.append(("instance", f"{rule.instance} is no capture of the host name"))
    elif captures and refers is None:
        found.append(("instance", "must be a capture of the host name, which is a pattern"))
    if rule.tls and "*" in rule.site.partition(".")[2]:
        found.append(("tls", "there are certificates only for patterns whose first label alone is a capture"))
    if rule.redirect and not rule.tls:
        found.append(("redirect", "needs tls"))
    elif rule.redirect and rule.port == HTTP_PORT:
        found.append(("redirect", f"leads from port {HTTP_PORT} to another one"))
    return found + _wrong_guard(rule.guard)


def _wrong_host(text: str) -> str:
    if not text or len(text) > _LONGEST_HOST:
        return f"must have 1 to {_LONGEST_HOST} characters"
    seen = set()
    for part in text.split("."):
        if part.startswith("*"):
            return "a wildcard is not a host name; a capture such as {instance} is"
        if "{" in part or "}" in part:
            if _CAPTURE.fullmatch(part) is None:
                return "a capture is a whole label: a name in braces between two dots"
            if part in seen:
                return f"{part} is there twice"
            seen.add(part)
        elif _LABEL.fullmatch(part.lower()) is None:
            return "must be labels of letters, digits, '-' and '_' with dots between"
    return ""


def _wrong_guard(guard: Guard | None) -> list[tuple[str, str]]:
    """The value is never repeated."""
    if guard is None:
        return []
    if _TOKEN.fullmatch(guard.header) is None:
        return [("guard.header", "is no name of a header")]
    name = guard.header.lower()
    if name in _RESERVED or name.startswith(_RESERVED_BEGINNINGS):
        return [("guard.header", "is reserved")]
    if _SECRET.fullmatch(guard.value) is None:
        return [("guard.value", "must be 32 to 256 visible ASCII characters without '*', '{' and '}'")]
    return []
