"""Wire to model and back. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polyvisor.dialects.native.states import WORDS
from polyvisor.model.event import Event
from polyvisor.model.face import face
from polyvisor.model.faults import Invalid
from polyvisor.model.guest import Exec, Exit, FileStat
from polyvisor.model.host import HostReport
from polyvisor.model.ids import VolumeId
from polyvisor.model.image import Image
from polyvisor.model.instance import Instance, Mount, MountState, Power
from polyvisor.model.operation import Operation
from polyvisor.model.request import Create
from polyvisor.model.spec import CloudInit, Firmware, Port, RestartMode, RestartPolicy, Shape
from polyvisor.model.units import Seconds, parse_duration, parse_size
from polyvisor.model.volume import Volume
from polyvisor.wire import native as wire


def create_of(body: wire.CreateInstance, mounts: tuple[Mount, ...]) -> Create:
    """The request as the engine wants it. :raise Invalid: a size or duration that is none."""
    cloud = body.cloud_init
    return Create(
        image=body.image,
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
        ports=tuple(Port(p.guest, p.host, p.protocol) for p in body.ports),
        mounts=mounts,
        cloud_init=CloudInit(cloud.user_data, tuple(cloud.ssh_keys), cloud.user) if cloud else CloudInit(),
        restart=RestartPolicy(RestartMode(body.restart.mode), body.restart.attempts, Seconds(body.restart.backoff)),
        autostart=body.autostart,
        grace=parse_duration(body.grace, "grace"),
        lifetime=None if body.lifetime is None else parse_duration(body.lifetime, "lifetime"),
        power=Power(body.power),
        labels=tuple(sorted(body.labels.items())),
    )


def mounts_of(body: wire.CreateInstance) -> tuple[Mount, ...]:
    """The volumes as asked for: still by name."""
    return tuple(Mount(VolumeId(v.volume), v.volume, v.path, v.read_only, MountState.ATTACHED) for v in body.volumes)


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
        disk=spec.disk,
        command=list(spec.argv),
        hostname=spec.hostname or instance.name,
        address=address.ip if address else None,
        mac=address.mac if address else None,
        ports=[wire.Forward.model_construct(protocol=p, host=h, guest=g) for p, h, g in run.forwards] if run else [],
        volumes=[_mount_to(m) for m in instance.mounts],
        labels=dict(spec.labels),
        restart=wire.RestartRequest.model_construct(
            mode=spec.restart.mode.value, attempts=spec.restart.attempts, backoff=spec.restart.backoff
        ),
        restarts=seen.restarts,
        autostart=spec.autostart,
        incarnation=seen.incarnation,
        pid=run.pid if run else None,
        accelerator=run.accelerator if run else None,
        exit=wire.Exit.model_construct(code=ended.code, signal=ended.signal, reason=ended.reason) if ended else None,
        error=error_to(seen.fault_kind or "Internal", seen.fault),
        operation=instance.operation,
        host=instance.host,
        created=instance.created,
        started=seen.booted if run else None,
        changed=seen.since,
        expires=instance.intent.expires,
    )


def _mount_to(mount: Mount) -> wire.MountReply:
    return wire.MountReply.model_construct(
        volume=mount.volume, name=mount.name, path=mount.path, read_only=mount.read_only, state=mount.state.value
    )


def error_to(kind: str, text: str) -> wire.Error | None:
    """A stored fault, if there is one."""
    return wire.Error(kind=kind, message=text) if text else None


def operation_to(operation: Operation) -> wire.Operation:
    """An operation for its reader."""
    return wire.Operation(
        id=operation.id, instance=operation.instance, verb=operation.verb.value, state=operation.outcome.value,
        progress=operation.progress, error=error_to(operation.fault_kind, operation.fault), created=operation.created,
        finished=operation.finished,
    )  # fmt: skip


def volume_to(volume: Volume) -> wire.Volume:
    """A volume for its reader."""
    return wire.Volume(
        id=volume.id, name=volume.name, project=volume.project, size=volume.size, state=volume.state.value,
        attached=list(volume.attached), host=volume.host, created=volume.created,
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
