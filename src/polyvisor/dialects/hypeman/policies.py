"""What an instance may ask for beside its machine: what of it is kept, what is met, and what is refused by name.

Not there yet, each refused in `check_create` or beside it: the mediated way out and its credentials.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from polyvisor.dialects.hypeman import asks, wire
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.grammar import (
    RESERVED_TAG,
    Malformed,
    parse_duration,
    parse_io_rate,
    parse_rate,
    parse_size,
    show_duration,
    show_size,
)
from polyvisor.model.compression import MAX_DELAY, Algorithm, Compression, compression
from polyvisor.model.faults import Invalid
from polyvisor.model.spec import MAX_DISK, MIN_DISK, RestartMode
from polyvisor.model.spec import RestartPolicy as Restart
from polyvisor.model.standby import StandbyPolicy, check_standby
from polyvisor.model.units import Bytes, Seconds

_MODES = {
    "never": RestartMode.NEVER,
    "always": RestartMode.ALWAYS,
    "on_failure": RestartMode.ON_FAILURE,
}
_WORDS = {mode: word for word, mode in _MODES.items()}
_UNBUILT = "is not supported by this server"


def size_of(text: str, field: str) -> Bytes:
    """:raise Refusal: `invalid_<field>`."""
    try:
        return parse_size(text)
    except Malformed as error:
        raise Refusal(400, f"invalid_{field}", f"invalid {field} format: {error}") from error


def duration_of(text: str, code: str, field: str) -> Seconds:
    """:raise Refusal: naming the field."""
    try:
        return parse_duration(text)
    except Malformed as error:
        raise Refusal(400, code, f"invalid {field}: {error}") from error


def check_tags(tags: dict[str, str] | None) -> None:
    """:raise Refusal: a key is upstream's own."""
    for key in tags or ():
        if key.startswith(RESERVED_TAG):
            raise Refusal(400, "invalid_request", f'tags: key "{key}" uses the reserved prefix "{RESERVED_TAG}"')


def lifetime_of(ttl: str | None, expires_at: datetime | None, now: datetime) -> Seconds | None:
    """Seconds from now until it expires; 0: it never does; None: nothing was said. :raise Refusal:"""
    if ttl is not None and expires_at is not None:
        raise Refusal(400, "invalid_request", "ttl and expires_at are mutually exclusive")
    if ttl is not None:
        seconds = duration_of(ttl, "invalid_ttl", "ttl")
        if seconds < 0:
            raise Refusal(400, "invalid_ttl", "invalid ttl: must not be negative")
        return seconds
    if expires_at is None:
        return None
    if expires_at <= now:
        raise Refusal(400, "invalid_expires_at", "invalid expires_at: must be in the future")
    return Seconds((expires_at - now).total_seconds())


def restart_of(policy: asks.RestartPolicy) -> Restart:
    """Our policy. :raise Refusal:"""
    code = "invalid_restart_policy"
    backoff = duration_of(policy.backoff, code, "restart_policy.backoff")
    stable = duration_of(policy.stable_after, code, "restart_policy.stable_after")
    if not 0 < backoff <= 3600:
        raise Refusal(400, code, "restart_policy.backoff: must be more than 0s and at most 1h")
    if not 0 < stable <= 7 * 86400:
        raise Refusal(400, code, "restart_policy.stable_after: must be more than 0s and at most 168h")
    return Restart(_MODES[policy.policy], policy.max_attempts, backoff, steady=True, stable=stable)


def restart_to(policy: Restart) -> wire.RestartPolicy | None:
    """As it is said; one that never restarts is not said at all."""
    if policy.mode is RestartMode.NEVER:
        return None
    return wire.RestartPolicy(
        policy=_WORDS[policy.mode],  # type: ignore[arg-type]  # one of those words
        backoff=show_duration(policy.backoff), max_attempts=policy.attempts, stable_after=show_duration(policy.stable),
    )  # fmt: skip


_STANDBY = "invalid_auto_standby"


def standby_of(policy: asks.AutoStandbyPolicy) -> StandbyPolicy:
    """Our policy. :raise Refusal: naming the field."""
    idle = None
    if policy.idle_timeout is not None:
        idle = duration_of(policy.idle_timeout, _STANDBY, "auto_standby.idle_timeout")
    elif policy.enabled:
        raise Refusal(400, _STANDBY, "auto_standby.idle_timeout is required when enabled is true")
    ours = StandbyPolicy(
        policy.enabled, idle, tuple(policy.ignore_source_cidrs or ()), tuple(policy.ignore_destination_ports or ())
    )
    try:
        check_standby(ours)
    except Invalid as fault:
        named = {"standby.after": "idle_timeout", "standby.ignore_sources": "ignore_source_cidrs"}
        field = f"auto_standby.{named.get(fault.field or '', 'ignore_destination_ports')}"
        raise Refusal(400, _STANDBY, f"{field}: {fault.public.partition(': ')[2]}") from fault
    return ours


def standby_to(policy: StandbyPolicy | None, text: str | None) -> wire.AutoStandbyPolicy | None:
    """As it is said: with `text`, the idle time as it was asked for, where that still holds."""
    if policy is None:
        return None
    idle = None if policy.idle is None else show_duration(policy.idle)
    if text is not None and policy.idle == parse_duration(text):
        idle = text
    return wire.AutoStandbyPolicy.model_construct(
        enabled=policy.enabled, idle_timeout=idle,
        ignore_source_cidrs=list(policy.sources) or None, ignore_destination_ports=list(policy.ports) or None,
    )  # fmt: skip


def check_policies(
    auto_standby: asks.AutoStandbyPolicy | None, health_check: asks.HealthCheck | None
) -> dict[str, Any]:
    """What is to be kept of them. :raise Refusal: one would have to do something."""
    kept: dict[str, Any] = {}
    if auto_standby is not None and auto_standby.idle_timeout is not None:
        kept["idle_timeout"] = auto_standby.idle_timeout
    if health_check is not None:
        kept["health_check"] = {"type": "none"} if health_check.type == "none" else None
    return kept


def compression_of(asked: asks.Compression | None, field: str) -> Compression | None:
    """What saved memory is to be compressed with; None: nothing was said. :raise Refusal: it is not valid."""
    if asked is None:
        return None
    if not asked.enabled:
        return Compression()
    try:
        return compression(Algorithm(asked.algorithm or "zstd"), asked.level, f"{field}.level")
    except Invalid as fault:
        raise Refusal(400, "invalid_snapshot_compression", fault.public) from fault


def delay_of(text: str | None, code: str, field: str) -> Seconds | None:
    """How long after a standby its memory is compressed. :raise Refusal:"""
    if text is None:
        return None
    seconds = duration_of(text, code, field)
    if not 0 <= seconds <= MAX_DELAY:
        raise Refusal(400, code, f"{field}: must be between 0s and {show_duration(MAX_DELAY)}")
    return seconds


def snapshot_policy_of(policy: asks.SnapshotPolicy | None) -> tuple[Compression | None, Seconds | None]:
    """What an instance has its memory compressed with, and when. :raise Refusal:"""
    code = "invalid_snapshot_policy"
    if policy is None:
        return None, None
    try:
        packed = compression_of(policy.compression, "snapshot_policy.compression")
    except Refusal as refusal:
        raise Refusal(400, code, refusal.message) from refusal
    return packed, delay_of(policy.standby_compression_delay, code, "snapshot_policy.standby_compression_delay")


def check_create(body: asks.CreateInstanceRequest) -> None:
    """:raise Refusal: it asks for what this server does not do, or asks for it wrongly."""
    check_tags(body.tags)
    size_of(body.size, "size")
    size_of(body.overlay_size, "overlay_size")
    snapshot_policy_of(body.snapshot_policy)
    network = body.network
    if network is not None and network.egress is not None and network.egress.enabled:
        raise Refusal(400, "invalid_request", f"network.egress.enabled: a mediated way out {_UNBUILT}")
    named = {
        "credentials": (body.credentials, f"credentials {_UNBUILT}"),
        "devices": (body.devices, "devices: this host has no devices to pass through"),
        "gpu": (body.gpu is not None and body.gpu.profile, "gpu.profile: this host has no virtual GPUs"),
        "agent": (body.skip_guest_agent, "skip_guest_agent: every guest of this server has its agent"),
    }
    for given, text in named.values():
        if given:
            raise Refusal(400, "invalid_request", text)
    if body.hypervisor not in (None, "qemu"):
        raise Refusal(400, "invalid_request", f'hypervisor: "{body.hypervisor}" is not installed here (qemu is)')
    for volume in body.volumes or ():
        overlay_of(volume)


def overlay_of(volume: asks.VolumeMount) -> Bytes:
    """What may be written above it; 0: it has no overlay. :raise Refusal: it makes no sense."""
    about = f"volumes: volume {volume.volume_id}:"
    if not volume.overlay:
        if volume.overlay_size is not None:
            raise Refusal(400, "invalid_request", f"{about} overlay_size is for volumes with overlay=true")
        return Bytes(0)
    if not volume.readonly:
        raise Refusal(400, "invalid_request", f"{about} overlay requires readonly=true")
    if volume.overlay_size is None:
        raise Refusal(400, "invalid_request", f"{about} overlay_size is required when overlay=true")
    try:
        size = parse_size(volume.overlay_size)
    except Malformed as error:
        text = f"invalid overlay_size for volume {volume.volume_id}: {error}"
        raise Refusal(400, "invalid_overlay_size", text) from error
    if not MIN_DISK <= size <= MAX_DISK:
        low, high = show_size(MIN_DISK), show_size(MAX_DISK)
        raise Refusal(400, "invalid_overlay_size", f"{about} overlay_size must be {low} to {high}")
    return size


def rates_of(body: asks.CreateInstanceRequest) -> dict[str, Bytes]:
    """The limits that are asked for, as the engine calls them; 0 is no limit of one's own. :raise Refusal:"""
    network = body.network or asks.Network()
    found = {}
    rates = (
        ("disk_rate", "disk_io_bps", body.disk_io_bps, parse_io_rate),
        ("download_rate", "bandwidth_download", network.bandwidth_download, parse_rate),
        ("upload_rate", "bandwidth_upload", network.bandwidth_upload, parse_rate),
    )
    for ours, field, text, parse in rates:
        if text is None:
            continue
        try:
            found[ours] = parse(text)
        except Malformed as error:
            raise Refusal(400, f"invalid_{field}", f"invalid {field} format: {error}") from error
    return found


def rate_to(rate: int) -> str | None:
    """As it is said; what has no limit is not said."""
    return f"{show_size(rate)}/s" if rate else None
