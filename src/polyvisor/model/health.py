"""Health checks: how it is found out whether a workload is well, and what came of it so far."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from polyvisor.model.faults import Invalid
from polyvisor.model.units import Seconds

_PATH = re.compile(r"/[\x21-\x7e]*")
_LONGEST_ERROR = 200


class Probe(StrEnum):
    """`http`: a path answers with a status. `tcp`: a port takes a connection. `exec`: a command ends with 0."""

    HTTP = "http"
    TCP = "tcp"
    EXEC = "exec"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """`interval` seconds pass between two checks; each has `timeout`. For `start` seconds after its process began an
    instance is not unhealthy whatever fails; afterwards it is after so many `failures` on end, and healthy after so
    many `successes`.
    """

    probe: Probe
    interval: Seconds = Seconds(10.0)
    timeout: Seconds = Seconds(2.0)
    start: Seconds = Seconds(30.0)
    failures: int = 3
    successes: int = 1
    port: int = 0
    path: str = "/"
    tls: bool = False
    status: int = 200
    argv: tuple[str, ...] = ()
    cwd: str = ""


class Health(StrEnum):
    """`disabled`: nothing is checked. `starting`: not decided yet. `unknown`: it does not run."""

    DISABLED = "disabled"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """What the checks of one run have said. `successes` and `failures` are those on end; `error` is the last one's."""

    health: Health = Health.STARTING
    successes: int = 0
    failures: int = 0
    checked: datetime | None = None
    succeeded: datetime | None = None
    failed: datetime | None = None
    error: str = ""


NO_CHECK = HealthStatus(Health.DISABLED)
NOT_RUNNING = HealthStatus(Health.UNKNOWN)


def after(was: HealthStatus, check: HealthCheck, error: str, booted: datetime | None, now: datetime) -> HealthStatus:
    """The status after a check; `error` empty: it went well. `booted`: when the process began."""
    if not error:
        found = replace(was, successes=was.successes + 1, failures=0, checked=now, succeeded=now)
        return replace(found, health=Health.HEALTHY, error="") if found.successes >= check.successes else found
    error = error[:_LONGEST_ERROR]
    found = replace(was, successes=0, failures=was.failures + 1, checked=now, failed=now, error=error)
    patient = booted is not None and now < booted + timedelta(seconds=check.start)
    return found if patient or found.failures < check.failures else replace(found, health=Health.UNHEALTHY)


def check_health(check: HealthCheck, *, network: bool) -> HealthCheck:
    """:raise Invalid: naming the first field that is wrong."""
    bounds = {
        "health.interval": 0.1 <= check.interval <= 86400,
        "health.timeout": 0.1 <= check.timeout <= 600,
        "health.start": 0 <= check.start <= 86400,
        "health.failures": 1 <= check.failures <= 1000,
        "health.successes": 1 <= check.successes <= 1000,
        "health.port": check.probe is Probe.EXEC or 1 <= check.port <= 65535,
        "health.status": 100 <= check.status <= 599,
        "health.path": _PATH.fullmatch(check.path) is not None,
        "health.command": check.probe is not Probe.EXEC or bool(check.argv and check.argv[0]),
    }
    for field, good in bounds.items():
        if not good:
            raise Invalid(f"{field}: is not one that a check can have", field=field)
    if any("\0" in text for text in (*check.argv, check.cwd)):
        raise Invalid("health.command: must not hold a NUL character", field="health.command")
    if check.probe is not Probe.EXEC and not network:
        raise Invalid("health.port: the instance has no network", field="health.port")
    return check
