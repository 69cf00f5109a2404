"""From the record to what a host is told."""

from __future__ import annotations

from dataclasses import replace

from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import VolumeId
from polyvisor.model.instance import Instance, Mount
from polyvisor.model.spec import Spec
from polyvisor.model.units import Bytes

_SERIAL_LENGTH = 20  # what virtio-blk carries


def disk_of(mount: Mount, spec: Spec) -> Disk:
    """A mount as a disk; its size is the host's business once the volume exists."""
    places = [one.volume for one in spec.overlays] if mount.overlay else []
    overlay = places.index(mount.volume) if mount.volume in places else None
    return Disk(
        mount.volume, serial_of(mount.volume), Bytes(0), mount.path, mount.read_only, overlay, mount.bus, mount.pool
    )  # fmt: skip


def serial_of(volume: VolumeId) -> str:
    """How a guest knows a volume: `/dev/disk/by-id/virtio-SERIAL`."""
    return volume[:_SERIAL_LENGTH]


def blueprint_of(instance: Instance) -> Blueprint:
    """The instance for its host."""
    disks = tuple(disk_of(mount, instance.spec) for mount in instance.mounts)
    address = instance.address if instance.spec.network else None
    if address is not None and instance.spec.macs and instance.spec.macs[0]:
        address = replace(address, mac=instance.spec.macs[0])
    return Blueprint(instance.id, instance.number, instance.project, instance.name, instance.spec, address, disks)
