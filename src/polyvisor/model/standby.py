"""Standby by idleness: the policy, who is seen to want something of an instance, and where it stands. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from polyvisor.model.faults import Invalid
from polyvisor.model.units import Seconds

LONGEST = Seconds(366 * 86400.0)
_MANY = 256


@dataclass(frozen=True, slots=True)
class StandbyPolicy:
    """After `idle` seconds without a connection into it or a session in it, an instance is put into standby; whoever
    connects then wakes it. Connections from `sources` and to the guest's `ports` do not keep it awake."""

    enabled: bool = False
    idle: Seconds | None = None
    sources: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


def check_standby(policy: StandbyPolicy) -> None:
    """:raise Invalid: naming what is wrong."""
    if policy.enabled and policy.idle is None:
        raise Invalid("standby.after: needed where standby by idleness is enabled", field="standby.after")
    if policy.idle is not None and not 0 < policy.idle <= LONGEST:
        raise Invalid("standby.after: must be more than 0 seconds and at most 366 days", field="standby.after")
    if max(len(policy.sources), len(policy.ports)) > _MANY:
        raise Invalid(f"standby: more than {_MANY} are ignored", field="standby")
    for text in policy.sources:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            raise Invalid(
                f"standby.ignore_sources: {text[:60]!r} is not a range of addresses", field="standby.ignore_sources"
            ) from error
    for port in policy.ports:
        if not 1 <= port <= 65535:
            raise Invalid("standby.ignore_ports: a port must be between 1 and 65535", field="standby.ignore_ports")


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection into a guest: from where, to which of the guest's ports."""

    source: str
    port: int


@dataclass(frozen=True, slots=True)
class Inbound:
    """Who wants something of a guest now, and who did since it was asked last; `sessions` are commands and transfers
    that go through us, `begun` counts them since the machine was met."""

    open: tuple[Connection, ...] = ()
    past: tuple[Connection, ...] = ()
    sessions: int = 0
    begun: int = 0


def counted(connections: Sequence[Connection], policy: StandbyPolicy) -> int:
    """How many of them keep it awake."""
    networks = [ipaddress.ip_network(text, strict=False) for text in policy.sources]
    return sum(
        one.port not in policy.ports and not any(ipaddress.ip_address(one.source) in network for network in networks)
        for one in connections
    )


class Stand(StrEnum):
    """Where standby by idleness stands."""

    DISABLED = "disabled"
    INELIGIBLE = "ineligible"
    ACTIVE = "active"
    COUNTDOWN = "idle_countdown"
    READY = "ready_for_standby"
    REQUESTED = "standby_requested"
    ERROR = "error"


class Why(StrEnum):
    """And why there."""

    NO_POLICY = "policy_missing"
    OFF = "policy_disabled"
    NOT_RUNNING = "instance_not_running"
    NO_NETWORK = "network_disabled"
    CONNECTIONS = "active_inbound_connections"
    COUNTDOWN = "idle_timeout_not_elapsed"
    UNSEEN = "observer_error"
    READY = "ready_for_standby"


@dataclass(frozen=True, slots=True)
class StandbyStatus:
    """All of it, as of a moment."""

    policy: StandbyPolicy | None
    stand: Stand
    why: Why
    active: int = 0
    idle_since: datetime | None = None
    last: datetime | None = None
    due: datetime | None = None
    held: datetime | None = None
    left: Seconds | None = None
