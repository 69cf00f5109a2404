"""Wire to model and back. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from polyvisor.dialects.native.states import WORDS
from polyvisor.engine.packing import CompressionPolicy
from polyvisor.model.compression import DEFAULT_WORD, Compression, check_delay, parse_compression
from polyvisor.model.egress import EgressPolicy, parse_policy
from polyvisor.model.event import Event
from polyvisor.model.face import face
from polyvisor.model.faults import Invalid
from polyvisor.model.guest import Exec, Exit, FileStat
from polyvisor.model.health import HealthCheck, HealthStatus, Probe
from polyvisor.model.host import HostReport
from polyvisor.model.ids import VolumeId
from polyvisor.model.image import Image
from polyvisor.model.instance import Bus, Instance, Mount, MountState, Power
from polyvisor.model.network import HostNic
from polyvisor.model.operation import Operation
from polyvisor.model.reclaim import Action, Reclaimed, Wanted
from polyvisor.model.request import Create
from polyvisor.model.snapshot import Schedule, Snapshot, TemplateFor
from polyvisor.model.spec import CloudInit, Display, Firmware, Port, RestartMode, RestartPolicy, Shape
from polyvisor.model.standby import StandbyPolicy
from polyvisor.model.units import Bytes, Seconds, parse_duration, parse_size
from polyvisor.model.volume import DEFAULT_POOL, Pool, Volume
from polyvisor.wire import native as wire


def create_of(body: wire.CreateInstance, mounts: tuple[Mount, ...]) -> Create:
    """The request as the engine wants it. :raise Invalid: a size or duration that is none."""
    cloud = body.cloud_init
    return Create(
        image=body.image or "",
        snapshot=body.snapshot or "",
        name=body.name or "",
        vcpus=body.vcpus,
        memory=None if body.memory is None else parse_size(body.memory, "memory"),
        disk=None if body.disk is None else parse_size(body.disk, "disk"),
        shape=None if body.shape is None else Shape(body.shape),
        firmware=None if body.firmware is None else Firmware(body.firmware),
        command=None if body.command is None else tuple(body.command),
        entrypoint=None if body.entrypoint is None else tuple(body.entrypoint),
        env=tuple(body.env.items()),
        cwd=body.cwd,
        user=body.user,
        hostname=body.hostname,
        network=body.network,
        ports=None if body.ports is None else tuple(Port(p.guest, p.host, p.protocol) for p in body.ports),
        mounts=mounts,
        cloud_init=CloudInit(cloud.user_data, tuple(cloud.ssh_keys), cloud.user) if cloud else CloudInit(),
        restart=None if body.restart is None else _restart_of(body.restart),
        autostart=body.autostart,
        grace=None if body.grace is None else parse_duration(body.grace, "grace"),
        lifetime=None if body.lifetime is None else parse_duration(body.lifetime, "lifetime"),
        power=Power(body.power),
        labels=None if body.labels is None else tuple(sorted(body.labels.items())),
        cold=not body.template,
        compression=_compression(body.compression),
        compression_delay=delay_of(body.compression_delay),
        disk_rate=None if body.disk_rate is None else parse_size(body.disk_rate, "disk_rate"),
        download_rate=None if body.download_rate is None else parse_size(body.download_rate, "download_rate"),
        health=health_of(body.health),
        upload_rate=None if body.upload_rate is None else parse_size(body.upload_rate, "upload_rate"),
        standby=standby_of(body.standby),
        blank=body.blank,
        bridged=None if body.nics is None else tuple(body.nics),
        tpm=body.tpm,
        egress=None if body.egress is None else egress_of(body.egress),
        displays=None
        if body.displays is None
        else tuple(Display(d.name, d.width, d.height, d.ppi) for d in body.displays),
    )


def standby_of(body: wire.StandbyRequest | None) -> StandbyPolicy | None:
    """The policy; None: nothing was said. :raise Invalid:"""
    if body is None:
        return None
    after = parse_duration(body.after, "standby.after")
    if after < 0:
        raise Invalid("standby.after: must not be negative", field="standby.after")
    return StandbyPolicy(bool(after), after or None, tuple(body.ignore_sources), tuple(body.ignore_ports))


def egress_of(body: wire.Egress) -> EgressPolicy:
    """The policy. :raise Invalid:"""
    return parse_policy(
        allow_http=body.allow_http, allow_https=body.allow_https, allow_package_managers=body.allow_package_managers,
        domains=body.domains, cidrs=body.cidrs, domains_field="egress.domains", cidrs_field="egress.cidrs",
    )  # fmt: skip


def egress_to(policy: EgressPolicy | None) -> wire.Egress | None:
    """The policy for the wire."""
    if policy is None:
        return None
    return wire.Egress.model_construct(
        allow_http=policy.allow_http, allow_https=policy.allow_https,
        allow_package_managers=policy.allow_package_managers, domains=list(policy.domains), cidrs=list(policy.cidrs),
    )  # fmt: skip


def _standby_to(policy: StandbyPolicy | None) -> wire.Standby | None:
    if policy is None:
        return None
    return wire.Standby.model_construct(
        enabled=policy.enabled, after=policy.idle, ignore_sources=list(policy.sources), ignore_ports=list(policy.ports)
    )


def _compression(text: str | None) -> Compression | None:
    return None if text in (None, DEFAULT_WORD) else compression_of(text)


def compression_of(text: str | None) -> Compression | None:
    """As text. :raise Invalid: no such level."""
    return None if text is None else parse_compression(text)


def delay_of(value: float | str | None) -> Seconds | None:
    """How long after a standby its memory is compressed. :raise Invalid:"""
    return None if value is None else check_delay(parse_duration(value, "compression_delay"))


def policy_of(body: wire.UpdateInstance) -> CompressionPolicy | None:
    """What is changed of an instance's policy; None: nothing. :raise Invalid:"""
    if body.compression is None and body.compression_delay is None:
        return None
    delay = delay_of(body.compression_delay)
    return CompressionPolicy(_compression(body.compression), delay, keep=body.compression is None)


def health_of(body: wire.HealthRequest | wire.Unchecked | None) -> HealthCheck | None:
    """The check that is asked for; None: none is. :raise Invalid: a duration that is none."""
    if body is None or isinstance(body, wire.Unchecked):
        return None
    return HealthCheck(
        Probe(body.probe), parse_duration(body.interval, "health.interval"),
        parse_duration(body.timeout, "health.timeout"), parse_duration(body.start, "health.start"), body.failures,
        body.successes, body.port, body.path, body.tls, body.status, tuple(body.command), body.cwd,
    )  # fmt: skip


def _health_to(check: HealthCheck | None) -> wire.HealthRequest | None:
    if check is None:
        return None
    return wire.HealthRequest.model_construct(
        probe=check.probe.value, interval=check.interval, timeout=check.timeout, start=check.start,
        failures=check.failures, successes=check.successes, port=check.port, path=check.path, tls=check.tls,
        status=check.status, command=list(check.argv), cwd=check.cwd,
    )  # fmt: skip


def health_to(found: HealthStatus) -> wire.Health:
    """How a workload is, for its reader."""
    return wire.Health(
        health=found.health.value, successes=found.successes, failures=found.failures, checked=found.checked,
        succeeded=found.succeeded, failed=found.failed, error=found.error or None,
    )  # fmt: skip


def template_of(body: wire.CreateTemplate) -> Create:
    """The request as the engine wants it. :raise Invalid: a size that is none."""
    return create_of(
        wire.CreateInstance.model_validate(body.model_dump(exclude={"shared", "code"}, exclude_none=True)), ()
    )


def fork_of(body: wire.ForkInstance) -> Create:
    """The request as the engine wants it. :raise Invalid: a duration that is none."""
    more = body.model_dump(exclude={"kind", "without"}, exclude_unset=True)
    return create_of(wire.CreateInstance.model_validate(more), ())


def _restart_of(body: wire.RestartRequest) -> RestartPolicy:
    backoff, stable = Seconds(body.backoff), Seconds(body.stable)
    return RestartPolicy(RestartMode(body.mode), body.attempts, backoff, body.steady, stable)


def mounts_of(body: wire.CreateInstance) -> tuple[Mount, ...]:
    """The volumes as asked for: still by name."""
    return tuple(
        Mount(
            VolumeId(v.volume), v.volume, v.path, v.read_only, MountState.ATTACHED,
            Bytes(0) if v.overlay is None else parse_size(v.overlay, "volumes"), Bus(v.bus),
        )
        for v in body.volumes
    )  # fmt: skip


def labels_of(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The labels that a list is filtered by. :raise Invalid:"""
    pairs = [text.partition("=") for text in texts]
    if any(not name or not equals or "\0" in name + value for name, equals, value in pairs):
        raise Invalid("label: must be key=value", field="label")
    return [(name, value) for name, _, value in pairs]


def instance_to(instance: Instance) -> wire.Instance:
    """An instance for its reader. Environment and cloud-init data are never said."""
    spec, seen = instance.spec, instance.observed
    run, ended, address = seen.run, seen.ended, instance.address
    return wire.Instance.model_construct(
        id=instance.id,
        name=instance.name,
        project=instance.project,
        state=WORDS[face(instance)],
        ready=seen.ready,
        image=spec.image_name,
        image_digest=spec.image,
        shape=spec.shape.value,
        firmware=spec.firmware.value,
        vcpus=spec.vcpus,
        memory=spec.memory,
        disk=spec.own_disk,
        command=list(spec.argv),
        hostname=spec.hostname or instance.name,
        address=address.ip if address else None,
        mac=address.mac if address else None,
        ports=[wire.Forward.model_construct(protocol=p, host=h, guest=g) for p, h, g in run.forwards] if run else [],
        volumes=[_mount_to(m) for m in instance.mounts],
        labels=dict(spec.labels),
        restart=wire.RestartRequest.model_construct(
            mode=spec.restart.mode.value,
            attempts=spec.restart.attempts,
            backoff=spec.restart.backoff,
            steady=spec.restart.steady,
            stable=spec.restart.stable,
        ),
        restarts=seen.restarts,
        autostart=spec.autostart,
        incarnation=seen.incarnation,
        pid=run.pid if run else None,
        accelerator=run.accelerator if run else None,
        exit=wire.Exit.model_construct(code=ended.code, signal=ended.signal, reason=ended.reason) if ended else None,
        error=error_to(seen.fault_kind or "Internal", seen.fault),
        operation=instance.operation,
        origin=spec.origin or None,
        compression=None if spec.compression is None else str(spec.compression),
        compression_delay=spec.compression_delay,
        standby=_standby_to(spec.standby),
        disk_rate=spec.disk_rate,
        download_rate=spec.download_rate,
        upload_rate=spec.upload_rate,
        health=_health_to(spec.health),
        displays=[
            wire.Display.model_construct(name=d.name, width=d.width, height=d.height, ppi=d.ppi) for d in spec.displays
        ],
        nics=list(spec.bridged),
        tpm=spec.has_tpm,
        egress=egress_to(spec.egress),
        host=instance.host,
        created=instance.created,
        started=seen.booted if run else None,
        changed=seen.since,
        expires=instance.intent.expires,
    )


def _mount_to(mount: Mount) -> wire.MountReply:
    return wire.MountReply.model_construct(
        volume=mount.volume, name=mount.name, path=mount.path, read_only=mount.read_only, overlay=mount.overlay,
        state=mount.state.value, bus=mount.bus.value,
    )  # fmt: skip


def error_to(kind: str, text: str) -> wire.Error | None:
    """A stored fault, if there is one."""
    return wire.Error(kind=kind, message=text) if text else None


def operation_to(operation: Operation) -> wire.Operation:
    """An operation for its reader."""
    return wire.Operation(
        id=operation.id, instance=operation.instance, verb=operation.verb.value, subject=operation.subject or None,
        state=operation.outcome.value, progress=operation.progress,
        error=error_to(operation.fault_kind, operation.fault), created=operation.created, finished=operation.finished,
    )  # fmt: skip


def volume_to(volume: Volume) -> wire.Volume:
    """A volume for its reader."""
    return wire.Volume(
        id=volume.id, name=volume.name, project=volume.project, size=volume.size, state=volume.state.value,
        attached=list(volume.attached), host=volume.host, created=volume.created, kind=volume.kind,
        read_only=volume.read_only, pool=volume.pool or DEFAULT_POOL,
    )  # fmt: skip


def pool_to(pool: Pool) -> wire.Pool:
    """A pool for its reader."""
    return wire.Pool(
        name=pool.name, number=pool.number, path=pool.path or None, free=pool.free, total=pool.total
    )  # fmt: skip


def nic_to(nic: HostNic) -> wire.HostNic:
    """A NIC of the host for its reader."""
    return wire.HostNic(name=nic.name, number=nic.number, description=nic.description, bridge=nic.bridge or None)


def snapshot_to(snapshot: Snapshot) -> wire.Snapshot:
    """A snapshot for its reader."""
    spec, packed = snapshot.spec, snapshot.packed
    return wire.Snapshot(
        id=snapshot.id, name=snapshot.name, project=snapshot.project, kind=snapshot.kind.value,
        state=snapshot.state.value, instance=snapshot.source, instance_name=snapshot.source_name,
        image=spec.image_name, image_digest=spec.image, shape=spec.shape.value, vcpus=spec.vcpus, memory=spec.memory,
        disk=spec.own_disk, size=snapshot.size, scheduled=snapshot.scheduled, host=snapshot.host,
        volumes=[_mount_to(m) for m in snapshot.mounts], created=snapshot.created,
        compression=str(snapshot.compression), compression_state=packed.state.value,
        compression_error=packed.error or None, compressed_size=packed.packed or None,
        uncompressed_size=packed.plain or None,
    )  # fmt: skip


def template_to(template: Snapshot) -> wire.Template:
    """A template for its reader."""
    spec, of = template.spec, template.template
    whose: Literal["project", "all"] = "all" if of is TemplateFor.ALL else "project"
    return wire.Template(
        id=template.id, name=template.name, project=template.project, of=whose, state=template.state.value,
        image=spec.image_name, image_digest=spec.image, vcpus=spec.vcpus, memory=spec.memory, disk=spec.disk,
        size=template.size, host=template.host, created=template.created,
    )  # fmt: skip


def schedule_to(schedule: Schedule) -> wire.Schedule:
    """A schedule for its reader."""
    return wire.Schedule(
        instance=schedule.instance, interval=schedule.interval, kind=schedule.kind.value if schedule.kind else "any",
        max_age=schedule.max_age, max_count=schedule.max_count, next_run=schedule.next_run, last_run=schedule.last_run,
        last_error=schedule.last_error or None, last_snapshot=schedule.last_snapshot,
    )  # fmt: skip


def image_to(image: Image) -> wire.Image:
    """An image for its reader."""
    return wire.Image(
        digest=image.id, names=list(image.names), kind=image.kind.value, size=image.size,
        virtual_size=image.virtual_size, entrypoint=list(image.config.entrypoint), command=list(image.config.cmd),
        created=image.created,
    )  # fmt: skip


def host_to(report: HostReport) -> wire.Host:
    """A host for its reader."""
    return wire.Host(
        id=report.id, cpus=report.cpus, memory=report.memory, disk_free=report.disk_free,
        hypervisor=report.hypervisor, version=report.version, accelerator=report.accelerator, network=report.network,
        abilities=sorted(report.abilities), ok=report.ok, trouble=report.trouble,
    )  # fmt: skip


def wanted_of(body: wire.ReclaimMemory) -> Wanted:
    """The request as the engine wants it. :raise Invalid: a size or duration that is none."""
    return Wanted(parse_size(body.bytes, "bytes"), parse_duration(body.hold, "hold"), body.dry_run, body.reason)


def reclaimed_to(done: Reclaimed) -> wire.Reclaimed:
    """What became of a reclaim."""
    return wire.Reclaimed(
        requested=done.requested, planned=done.planned, applied=done.applied, hold_until=done.hold_until,
        host_available=done.available, host_pressure=done.pressure.value,
        actions=[_action_to(action) for action in done.actions],
    )  # fmt: skip


def _action_to(action: Action) -> wire.ReclaimAction:
    return wire.ReclaimAction(
        instance=action.id, name=action.name, assigned=action.assigned, floor=action.floor, previous=action.previous,
        planned=action.planned, target=action.target, applied=action.applied, status=action.outcome.value,
        error=action.error or None,
    )  # fmt: skip


def event_to(event: Event) -> wire.Event:
    """An event for its reader."""
    return wire.Event(
        seq=event.seq, kind=event.kind, project=event.project, subject=event.subject, at=event.at,
        data=dict(event.data),
    )  # fmt: skip


def exec_of(body: wire.ExecRequest) -> Exec:
    """A command as the agent wants it."""
    env: Mapping[str, str] = body.env
    return Exec(
        argv=tuple(body.argv), env=env, cwd=body.cwd or None, user=body.user or None, tty=body.tty, cols=body.cols,
        rows=body.rows, timeout=Seconds(body.timeout) if body.timeout else None,
    )  # fmt: skip


def exit_to(exit: Exit) -> wire.ExecResult:
    """How a command ended."""
    return wire.ExecResult(code=exit.code, signal=exit.signal, timed_out=exit.timed_out)


def stat_to(path: str, stat: FileStat) -> wire.FileStat:
    """A file in a guest."""
    return wire.FileStat(
        path=path, exists=stat.exists, kind=stat.kind, mode=stat.mode, size=stat.size, mtime=stat.mtime,
        uid=stat.uid, gid=stat.gid, target=stat.target,
    )  # fmt: skip
