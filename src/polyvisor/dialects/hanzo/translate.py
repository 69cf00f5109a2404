"""What machines and volumes of ours are called here. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from polyvisor.dialects.hanzo import catalog
from polyvisor.dialects.hanzo.find import ORGANIZATION, VM, VOLUME, Kept, name_of
from polyvisor.dialects.hanzo.states import PROVISIONING, word
from polyvisor.model.instance import Instance, Mount
from polyvisor.model.network import NetworkMode
from polyvisor.model.spec import Shape
from polyvisor.model.units import GIB
from polyvisor.model.volume import Volume, VolumeState

LOOPBACK = "127.0.0.1"
"""Where the ports of user mode are."""
_SSH = 22
NO_IMAGE = "none"
"""The `os` of a machine that boots from its volumes."""


def when(at: datetime) -> str:
    """A time as the documents print it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def gigabytes(size: int) -> int | float:
    """A whole number where it is one."""
    return size // GIB if size % GIB == 0 else round(size / GIB, 3)


def plan_of(instance: Instance, kept: Kept) -> str:
    """The plan that it was launched with, or the nearest one above what it is."""
    spec = instance.spec
    return str(kept.get("plan") or catalog.nearest(spec.vcpus, spec.memory, spec.disk).name)


def short(instance: Instance, kept: Kept, now: datetime) -> dict[str, object]:
    """What every answer says of a machine."""
    return {
        "id": VM + instance.id, "name": name_of(instance, kept), "status": word(instance, now),
        "createdAt": when(instance.created),
    }  # fmt: skip


def listed(instance: Instance, kept: Kept, now: datetime, mode: NetworkMode, region: str) -> dict[str, object]:
    """As `vm.all` lists it. `region` is that of what was made elsewhere."""
    return short(instance, kept, now) | {
        "plan": plan_of(instance, kept),
        "region": kept.get("region") or region,
        "os": kept.get("os") or instance.spec.image_name or NO_IMAGE,
        "ip": _ip(instance, now, mode),
    }


def detailed(
    instance: Instance, kept: Kept, now: datetime, mode: NetworkMode, region: str, volumes: list[dict[str, object]]
) -> dict[str, object]:
    """As `vm.one` shows it."""
    spec = instance.spec
    disk_type = catalog.PLANS[plan_of(instance, kept)].disk_type
    known = _ip(instance, now, mode) is not None
    return listed(instance, kept, now, mode, region) | {
        "organizationId": ORGANIZATION + instance.project,
        "privateIp": instance.address.ip if instance.address is not None and known else None,
        "sshPort": _ssh_port(instance, mode),
        "specs": {
            "vcpu": spec.vcpus, "memoryGb": gigabytes(spec.memory), "diskGb": gigabytes(spec.disk),
            "diskType": disk_type,
        },
        "sshKeys": kept.get("sshKeys", list(spec.cloud_init.ssh_keys)),
        "volumes": volumes,
    }  # fmt: skip


def _ip(instance: Instance, now: datetime, mode: NetworkMode) -> str | None:
    """Where it is reached: its own address on a bridge; in user mode this host's, where its ports are."""
    if instance.address is None or instance.observed.incarnation == 0 or word(instance, now) == PROVISIONING:
        return None
    return instance.address.ip if mode is NetworkMode.BRIDGE else LOOPBACK


def _ssh_port(instance: Instance, mode: NetworkMode) -> int | None:
    """In user mode each run has another one."""
    if mode is NetworkMode.BRIDGE:
        return _SSH if instance.address is not None and instance.spec.shape is Shape.FULL else None
    run = instance.observed.run
    forwards = run.forwards if run is not None else ()
    return next((host for kind, host, guest in forwards if (kind, guest) == ("tcp", _SSH)), None)


# -- volumes -------------------------------------------------------------------------------------------------------

_STATES: Mapping[VolumeState, str] = {
    VolumeState.CREATING: "creating",
    VolumeState.READY: "available",
    VolumeState.DELETING: "deleting",
}


def device_of(volume: Volume) -> str:
    """Where its guest finds it."""
    return f"/dev/disk/by-id/virtio-{volume.id[:20]}"


def attached(volume: Volume, kept: Kept, mount: Mount) -> dict[str, object]:
    """A volume as its machine has it."""
    return {
        "id": VOLUME + volume.id, "name": name_of(volume, kept), "sizeGb": gigabytes(volume.size),
        "mountPath": mount.path or kept.get("mountPath"), "device": device_of(volume), "status": "attached",
        "tier": kept.get("tier", catalog.DEFAULT_TIER),
    }  # fmt: skip


def volume(volume: Volume, kept: Kept, region: str, mount: Mount | None = None) -> dict[str, object]:
    """A volume by itself. `mount` is on the machine that has it."""
    holder = volume.attached[0] if volume.attached else None
    path = (mount.path if mount is not None else "") or kept.get("mountPath")
    return {
        "id": VOLUME + volume.id,
        "name": name_of(volume, kept),
        "organizationId": ORGANIZATION + volume.project,
        "sizeGb": gigabytes(volume.size),
        "tier": kept.get("tier", catalog.DEFAULT_TIER),
        "region": kept.get("region") or region,
        "status": "attached" if holder else _STATES[volume.state],
        "vmId": VM + holder if holder else None,
        "mountPath": path if holder else None,
        "device": device_of(volume) if holder else None,
        "createdAt": when(volume.created),
    }
