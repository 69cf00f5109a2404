"""What Caddy is told, as its JSON document. Pure.

Nothing of a caller's goes in but host names and the values of guards, both of which hold no character that Caddy would
read as a placeholder or a wildcard (`model/ingress.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polyvisor.model.ids import IngressId
from polyvisor.model.ingress import HTTP_PORT, Route

Json = dict[str, Any]
OWN = "own"  # the folder that Caddy may write to
DOORS = "doors"
ADMIN = "admin.sock"
ROOTS = "roots.pem"
LOG = "caddy.log"
_HOLD = "30s"  # so long who asks waits for a server of ours that is being started anew
_HEAD_LIMIT = "30s"
_TRY_EVERY = "250ms"
_NOBODY = [{"method": ["-"]}]  # requests that are made again although an instance may have had them: none


@dataclass(frozen=True, slots=True)
class Settings:
    """`listen` is the address for every port. `email` and `ca`: of a public authority; without, Caddy is its own.
    `roots`: certificates in PEM, one of which `ca` has to show; empty: those that this host believes."""

    listen: str = "127.0.0.1"
    email: str = ""
    ca: str = ""
    roots: str = ""

    @property
    def public(self) -> bool:
        """Whether certificates come from a public authority."""
        return bool(self.email or self.ca)

    def at(self, port: int) -> str:
        """Where to listen."""
        return f"[{self.listen}]:{port}" if ":" in self.listen else f"{self.listen}:{port}"


def bare() -> Json:
    """What it starts with: nothing to serve, and how to tell it what. It keeps no copy of what it is told."""
    return {
        "admin": {"listen": f"unix/{OWN}/{ADMIN}", "config": {"persist": False}},
        "storage": {"module": "file_system", "root": f"{OWN}/data"},
        # Of requests nothing is logged: one that failed would be with its headers, and strangers could fill the disk.
        "logging": {"logs": {"default": {"level": "WARN", "exclude": ["http"]}}},
    }


def document(routes: Sequence[Route], settings: Settings) -> Json:
    """Everything: one server for each port, the certificates for those who want TLS."""
    whole = bare()
    servers: dict[int, Json] = {}
    for port in sorted(ports(routes)):
        servers[port] = {
            "listen": [settings.at(port)],
            "protocols": ["h1", "h2"],
            "read_header_timeout": _HEAD_LIMIT,
            "automatic_https": {"disable": True},
            "routes": [],
        }
    for route in sorted(routes, key=_rank):
        rule = route.rule
        if rule.tls:
            servers[rule.port]["tls_connection_policies"] = [{}]
        servers[rule.port]["routes"] += _handled(route)
        if rule.redirect:
            servers[HTTP_PORT]["routes"].append(_redirect(route))
    for server in servers.values():
        server["routes"].append({"handle": [_says(404, "there is no ingress for this host\n")]})
    whole["apps"] = {"http": {"servers": {f"port-{port}": server for port, server in servers.items()}}}
    if sites := sorted({route.rule.site for route in routes if route.rule.tls}):
        whole["apps"] |= _certificates(sites, settings)
    return whole


def ports(routes: Sequence[Route]) -> set[int]:
    """Where it listens."""
    found = {route.rule.port for route in routes}
    return found | {HTTP_PORT for route in routes if route.rule.redirect}


def listened(whole: Json) -> set[int]:
    """Where one that was told this listens."""
    servers = ((whole.get("apps") or {}).get("http") or {}).get("servers") or {}
    return {int(where.rpartition(":")[2]) for server in servers.values() for where in server["listen"]}


def door_name(ingress: IngressId, number: int) -> str:
    """The file name of the socket that leads to a rule's instance."""
    return f"{ingress}-{number}.sock"


def _rank(route: Route) -> tuple[int, str, int]:
    """Names before patterns, patterns with less that is open before others."""
    return route.rule.site.count("*"), route.ingress, route.number


def _handled(route: Route) -> list[Json]:
    rule = route.rule
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"unix/{DOORS}/{door_name(route.ingress, route.number)}"}],
        # A connection for each request: none is left open, by which an instance would look as if somebody wanted it.
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}, "compression": False},
        "load_balancing": {"try_duration": _HOLD, "try_interval": _TRY_EVERY, "retry_match": _NOBODY},
        "flush_interval": -1,
    }
    if rule.guard is None:
        return [_route(rule.site, [proxy])]
    header = rule.guard.header
    forget = {"handler": "headers", "request": {"delete": [header]}}
    return [
        _route(rule.site, [forget, proxy], header={header: [rule.guard.value]}),
        _route(rule.site, [_says(403, "forbidden\n")]),
    ]


def _redirect(route: Route) -> Json:
    rule = route.rule
    port = "" if rule.port == 443 else f":{rule.port}"
    where = f"https://{{http.request.host}}{port}{{http.request.uri}}"
    return _route(rule.site, [{"handler": "static_response", "status_code": 301, "headers": {"Location": [where]}}])


def _route(site: str, handle: list[Json], **more: Any) -> Json:
    return {"match": [{"host": [site], **more}], "handle": handle, "terminal": True}


def _says(status: int, text: str) -> Json:
    headers = {"Content-Type": ["text/plain; charset=utf-8"]}
    return {"handler": "static_response", "status_code": status, "headers": headers, "body": text}


def _certificates(sites: Sequence[str], settings: Settings) -> Json:
    issuer: Json = {"module": "internal"}
    if settings.public:
        issuer = {"module": "acme", "email": settings.email}
        if settings.ca:
            issuer["ca"] = settings.ca
        if settings.roots:
            issuer["trusted_roots_pem_files"] = [ROOTS]
    return {
        "tls": {
            "certificates": {"automate": list(sites)},
            "automation": {"policies": [{"subjects": list(sites), "issuers": [issuer]}]},
        },
        "pki": {"certificate_authorities": {"local": {"install_trust": False}}},
    }
