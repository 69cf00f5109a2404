"""Wire to model and back. Pure functions.

`kept` is what was asked for and only this dialect says again: the remainder of an instance. One that another dialect
made has none.
"""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from polyvisor.dialects.hypeman import asks, policies, wire
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.grammar import show_size
from polyvisor.dialects.hypeman.healths import health_of, health_to, status_to
from polyvisor.dialects.hypeman.names import ours
from polyvisor.dialects.hypeman.resolve import DIALECT
from polyvisor.dialects.hypeman.states import word
from polyvisor.model.face import Face, face
from polyvisor.model.foreign import Foreign
from polyvisor.model.health import HealthStatus
from polyvisor.model.image import Image
from polyvisor.model.instance import Instance, Mount, Power, stage_of, time_spent
from polyvisor.model.request import Create
from polyvisor.model.units import GIB, Bytes

Kept = Mapping[str, Any]
MAX_OVERLAY = Bytes(100 * GIB)
AT_PRESENT = -(2**60) - secrets.randbelow(2**60)  # no number of milliseconds is that, and nobody can write it
_AT_REST = frozenset({Face.STOPPED, Face.FAILED})
_EXITS = {126: "permission denied (command not executable)", 127: "command not found"}


def foreign_of(kept: Kept, alias: tuple[str, str] | None = None) -> Foreign:
    """What is kept with a thing."""
    return Foreign(DIALECT, json.dumps(kept, separators=(",", ":")) if kept else "", alias)


def kept_of(text: str | None) -> Kept:
    """What was kept with a thing."""
    found: Kept = json.loads(text) if text else {}
    return found


def create_of(
    body: asks.CreateInstanceRequest, image: Image, mounts: tuple[Mount, ...], now: datetime, platform: str
) -> Create:
    """The request as the engine wants it. :raise Refusal: naming what is wrong or not to be had here."""
    size = policies.size_of(body.size, "size")
    hotplug = policies.size_of(body.hotplug_size, "hotplug_size") if body.hotplug_size is not None else Bytes(0)
    overlay = policies.size_of(body.overlay_size, "overlay_size")
    if overlay > MAX_OVERLAY:
        raise Refusal(400, "invalid_overlay_size", f"overlay_size: more than the maximum of {show_size(MAX_OVERLAY)}")
    lifetime = policies.lifetime_of(body.ttl, body.expires_at, now)
    kept: dict[str, Any] = {"image": body.image, "platform": platform, "hotplug": hotplug, "size": size}
    kept |= {"env": sorted(body.env or {})}
    kept |= policies.check_policies(body.auto_standby, body.health_check)
    packed, delay = policies.snapshot_policy_of(body.snapshot_policy)
    if body.snapshot_policy is not None:
        kept["snapshot_policy"] = body.snapshot_policy.model_dump(exclude_none=True)
    entrypoint = None if body.entrypoint is None else tuple(body.entrypoint)
    command = None if body.cmd is None else tuple(body.cmd)
    if entrypoint is not None and command is None:  # each is overridden by itself
        command = image.config.cmd
    rates = policies.rates_of(body)
    return Create(
        image=ours(body.image), name=body.name, vcpus=body.vcpus, memory=Bytes(size + hotplug), disk=overlay,
        entrypoint=entrypoint, command=command, env=tuple((body.env or {}).items()), mounts=mounts,
        network=body.network.enabled if body.network is not None else True,
        restart=policies.restart_of(body.restart_policy) if body.restart_policy is not None else None,
        standby=policies.standby_of(body.auto_standby) if body.auto_standby is not None else None,
        lifetime=lifetime or None, labels=tuple(sorted((body.tags or {}).items())), foreign=foreign_of(kept),
        compression=packed, compression_delay=delay, disk_rate=rates.get("disk_rate"),
        download_rate=rates.get("download_rate"), upload_rate=rates.get("upload_rate"),
        health=health_of(body.health_check, network=body.network is None or body.network.enabled),
    )  # fmt: skip


def instance_to(
    instance: Instance, kept: Kept, aliases: Mapping[str, str], now: datetime | None, health: HealthStatus
) -> wire.Instance:
    """An instance for its reader at a moment; without one, `AT_PRESENT` stands for the time that it is in its present
    phase. `aliases` are the ids that volumes were made with. Nothing is checked again: a list may be long."""
    spec, seen, state = instance.spec, instance.observed, word(instance)
    resting = face(instance) in _AT_REST and bool(seen.incarnation)
    code, message = exit_of(instance)
    hotplug = kept.get("hotplug", 0)
    env = {name: value for name, value in spec.env if name in set(kept.get("env", ()))}
    restart = policies.restart_to(spec.restart)
    spent = dict(seen.spent) | {stage_of(seen): AT_PRESENT} if now is None else time_spent(seen, now)
    return wire.Instance.model_construct(
        id=instance.id, name=instance.name, image=kept.get("image", spec.image_name), state=state,
        created_at=instance.created, platform=kept.get("platform"),
        state_error=(seen.fault or "the machine does not answer") if state == "Unknown" else None,
        size=show_size(spec.memory - hotplug), hotplug_size=show_size(hotplug), overlay_size=show_size(spec.own_disk),
        vcpus=spec.vcpus, disk_io_bps=policies.rate_to(spec.disk_rate), env=env or None,
        tags=dict(spec.labels) or None, network=_network_to(instance),
        volumes=[_mount_to(mount, aliases) for mount in instance.mounts] or None, expires_at=instance.intent.expires,
        started_at=seen.begun or seen.booted, stopped_at=seen.since if resting else None,
        exit_code=code, exit_message=message,
        has_snapshot=face(instance) is Face.SUSPENDED, hypervisor="qemu",
        snapshot_policy=_policy(wire.SnapshotPolicy, kept.get("snapshot_policy")),
        auto_standby=policies.standby_to(spec.standby, kept.get("idle_timeout")),
        health_check=health_to(spec.health) or _policy(wire.HealthCheck, kept.get("health_check")),
        health_status=status_to(health),
        phase_durations_ms={str(stage): millis for stage, millis in spent.items()},
        current_phase=str(stage_of(seen)), current_phase_since=seen.staged or seen.since,
        restart_policy=restart, restart_status=_restart_status(instance) if restart is not None else None,
    )  # fmt: skip


def _policy(model: Any, kept: Any) -> Any:
    return None if kept is None else model.model_validate(kept)


def _network_to(instance: Instance) -> wire.InstanceNetwork:
    address = instance.address
    if address is None:
        return wire.InstanceNetwork(enabled=False)
    return wire.InstanceNetwork.model_construct(
        enabled=True, name="default", ip=address.ip, mac=address.mac,
        bandwidth_download=policies.rate_to(instance.spec.download_rate),
        bandwidth_upload=policies.rate_to(instance.spec.upload_rate),
    )  # fmt: skip


def _mount_to(mount: Mount, aliases: Mapping[str, str]) -> wire.VolumeMount:
    id = aliases.get(mount.volume, mount.volume)
    size = mount.overlay
    return wire.VolumeMount.model_construct(
        volume_id=id, mount_path=mount.path, readonly=mount.read_only, overlay=True if size else None,
        overlay_size=show_size(size) if size else None,
    )  # fmt: skip


def exit_of(instance: Instance) -> tuple[int | None, str | None]:
    """How its last run ended: a code, 128 and more for a signal, and what that means where it means something."""
    if face(instance) not in _AT_REST:
        return None, None
    ended, fault = instance.observed.ended, instance.observed.fault or None
    if ended is None:
        return None, fault
    if ended.signal is not None:
        return 128 + ended.signal, fault or f"killed by signal {ended.signal} ({_signal_name(ended.signal)})"
    return ended.code, fault or _EXITS.get(ended.code or 0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _restart_status(instance: Instance) -> wire.RestartStatus:
    seen, policy = instance.observed, instance.spec.restart
    blocked = None
    if face(instance) in _AT_REST and seen.restart_at is None:
        spent = bool(policy.attempts) and seen.restarts >= policy.attempts
        manual = instance.intent.power is Power.OFF
        blocked = "manual_stop" if manual else "max_attempts_exceeded" if spent else None
    return wire.RestartStatus(
        attempts=seen.restarts, last_attempt_at=seen.booted if seen.restarts else None, next_attempt_at=seen.restart_at,
        blocked_reason=blocked,  # type: ignore[arg-type]  # one of those words
        last_reason="health_check_failed" if instance.intent.condemned else None,
    )  # fmt: skip
