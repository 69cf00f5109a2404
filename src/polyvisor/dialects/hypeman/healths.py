"""Health checks as this dialect says them, to ours and back."""

from __future__ import annotations

from polyvisor.dialects.hypeman import asks, wire
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.grammar import show_duration
from polyvisor.dialects.hypeman.policies import duration_of
from polyvisor.model.faults import Invalid
from polyvisor.model.health import HealthCheck, HealthStatus, Probe, check_health

_CODE = "invalid_health_check"
_FIELDS = {
    "health.interval": "interval", "health.timeout": "timeout", "health.start": "start_period",
    "health.failures": "failure_threshold", "health.successes": "success_threshold", "health.path": "http.path",
    "health.command": "exec.command",
}  # fmt: skip


def health_of(asked: asks.HealthCheck | None, *, network: bool) -> HealthCheck | None:
    """Our check; None: none is wanted. :raise Refusal: naming the field."""
    if asked is None or asked.type == "none":
        return None
    given = getattr(asked, asked.type)
    if given is None:
        raise Refusal(400, _CODE, f"health_check.{asked.type}: is required when type is {asked.type}")
    for other in ("http", "tcp", "exec"):
        if other != asked.type and getattr(asked, other) is not None:
            raise Refusal(400, _CODE, f"health_check.{other}: type is {asked.type}")
    check = HealthCheck(
        Probe(asked.type), duration_of(asked.interval, _CODE, "health_check.interval"),
        duration_of(asked.timeout, _CODE, "health_check.timeout"),
        duration_of(asked.start_period, _CODE, "health_check.start_period"),
        asked.failure_threshold, asked.success_threshold, port=getattr(given, "port", 0),
        path=asked.http.path if asked.http else "/", tls=asked.http is not None and asked.http.scheme == "https",
        status=asked.http.expected_status if asked.http else 200,
        argv=tuple(asked.exec.command) if asked.exec else (), cwd=(asked.exec.working_dir or "") if asked.exec else "",
    )  # fmt: skip
    try:
        return check_health(check, network=network)
    except Invalid as fault:
        field = _FIELDS.get(fault.field or "", f"{asked.type}.port")
        why = fault.public.removeprefix(f"{fault.field}: ")
        raise Refusal(400, _CODE, f"health_check.{field}: {why}") from fault


def health_to(check: HealthCheck | None) -> wire.HealthCheck | None:
    """As it is said, with the defaults."""
    if check is None:
        return None
    port = check.port
    http = wire.HealthCheckHTTP(
        port=port, path=check.path, scheme="https" if check.tls else "http", expected_status=check.status
    )
    command = wire.HealthCheckExec(command=list(check.argv), working_dir=check.cwd or None)
    return wire.HealthCheck(
        type=check.probe.value, interval=show_duration(check.interval), timeout=show_duration(check.timeout),
        start_period=show_duration(check.start), failure_threshold=check.failures, success_threshold=check.successes,
        http=http if check.probe is Probe.HTTP else None,
        tcp=wire.HealthCheckTCP(port=port) if check.probe is Probe.TCP else None,
        exec=command if check.probe is Probe.EXEC else None,
    )  # fmt: skip


def status_to(status: HealthStatus) -> wire.InstanceHealthStatus:
    """What came of it so far."""
    return wire.InstanceHealthStatus(
        status=status.health.value, consecutive_successes=status.successes, consecutive_failures=status.failures,
        last_checked_at=status.checked, last_success_at=status.succeeded, last_failure_at=status.failed,
        last_error=status.error or None,
    )  # fmt: skip
