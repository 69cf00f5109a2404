"""From what was asked, and what the image or the snapshot says, to a Spec. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from polyvisor.model.ending import Ending
from polyvisor.model.faults import Invalid, Unsupported
from polyvisor.model.ids import Digest
from polyvisor.model.image import Image, ImageKind
from polyvisor.model.request import Create
from polyvisor.model.snapshot import Snapshot, SnapshotKind
from polyvisor.model.spec import (
    DEFAULT_DISK,
    DEFAULT_GRACE,
    DEFAULT_MEMORY,
    FIRST_TPM,
    CloudInit,
    Firmware,
    Overlay,
    Port,
    RestartPolicy,
    Shape,
    Spec,
    Tpm,
    check_env,
    check_spec,
    room_for,
)
from polyvisor.model.units import MIB, Bytes
from polyvisor.model.vault import Binding

T = TypeVar("T")
_FULL_MEMORY = Bytes(1024 * MIB)


def resolve_spec(wanted: Create, image: Image) -> Spec:
    """The Spec. The image decides the shape; asking for another one is an error, not a hint.

    :raise Invalid: naming the field.
    """
    shape = Shape.MICRO if image.kind is ImageKind.ROOT else Shape.FULL
    if wanted.shape not in (None, shape):
        raise Invalid(f"shape: {wanted.image} is for shape {shape}", field="shape")
    default = DEFAULT_MEMORY if shape is Shape.MICRO else _FULL_MEMORY
    memory = default if wanted.memory is None else wanted.memory
    disk = max(DEFAULT_DISK, image.virtual_size) if wanted.disk is None else wanted.disk
    if shape is Shape.FULL and disk < image.virtual_size:
        raise Invalid(f"disk: the image needs at least {image.virtual_size} bytes", field="disk")
    check_env(wanted.env)
    overlays = tuple(Overlay(m.volume, m.overlay) for m in wanted.mounts if m.overlay)
    disk = Bytes(disk + room_for(overlays))
    lead, argv = _argv(wanted, image)
    return check_spec(
        Spec(
            image=image.id, image_name=wanted.image, shape=shape, firmware=_firmware(wanted, shape),
            vcpus=_or(wanted.vcpus, 1), memory=memory, disk=disk, argv=argv, lead=lead, env=_env(wanted, image),
            cwd=wanted.cwd or image.config.workdir, user=wanted.user or image.config.user, overlays=overlays,
            **_common(wanted),
        )
    )  # fmt: skip


def blank_spec(wanted: Create) -> Spec:
    """The Spec of a machine without a disk of its own, which boots what is attached to it, in that order.

    :raise Invalid: naming what such a machine cannot have.
    """
    given = {
        "shape": wanted.shape is Shape.MICRO,
        "disk": bool(wanted.disk),
        "command": wanted.command is not None,
        "entrypoint": wanted.entrypoint is not None,
        "env": bool(wanted.env),
        "cwd": bool(wanted.cwd),
        "user": bool(wanted.user),
    }
    for field, said in given.items():
        if said:
            raise Invalid(f"{field}: a blank machine has none", field=field)
    return check_spec(
        Spec(
            image=Digest(""), image_name="", shape=Shape.FULL, firmware=_firmware(wanted, Shape.FULL),
            vcpus=_or(wanted.vcpus, 1), memory=_or(wanted.memory, _FULL_MEMORY), disk=Bytes(0), **_common(wanted),
        )
    )  # fmt: skip


def _common(wanted: Create) -> dict[str, Any]:
    """What the image has no word in."""
    return {
        "hostname": wanted.hostname, "network": _or(wanted.network, True), "ports": wanted.ports or (),
        "cloud_init": wanted.cloud_init, "restart": wanted.restart or RestartPolicy(),
        "autostart": bool(wanted.autostart), "grace": _or(wanted.grace, DEFAULT_GRACE),
        "labels": wanted.labels or (), "compression": wanted.compression,
        "compression_delay": wanted.compression_delay, "standby": wanted.standby,
        "disk_rate": _or(wanted.disk_rate, Bytes(0)), "download_rate": _or(wanted.download_rate, Bytes(0)),
        "upload_rate": _or(wanted.upload_rate, Bytes(0)), "health": wanted.health,
        "displays": wanted.displays or (), "bridged": wanted.bridged or (),
        "tpm": FIRST_TPM if wanted.tpm else Tpm(), "egress": wanted.egress,
        "vaults": bindings(wanted),
        "ending": _or(wanted.ending, Ending()),
    }  # fmt: skip


def bindings(wanted: Create) -> tuple[Binding, ...]:
    """Those that are asked for: a snapshot keeps none, since who makes something of it is somebody else."""
    return tuple(Binding(vault) for vault in dict.fromkeys(wanted.vaults or ()))


def bare_spec(spec: Spec) -> Spec:
    """The same machine with nothing of anybody's in it."""
    return replace(
        spec, argv=(), lead=0, env=(), cwd="", user="", hostname="template", ports=(), labels=(),
        restart=RestartPolicy(), autostart=False, compression=None, compression_delay=None,
        standby=None, disk_rate=Bytes(0), download_rate=Bytes(0), upload_rate=Bytes(0), health=None, egress=None,
        vaults=(), ending=Ending(), bare=True,
    )  # fmt: skip


def fork_spec(wanted: Create, snapshot: Snapshot) -> Spec:
    """The Spec of an instance that is made from a snapshot: the snapshot's own, and what may differ from it.

    Host ports belong to the instance that the snapshot was taken of: here the same guest ports get free ones. So does
    what a TPM remembers: a machine that has one gets one that remembers nothing.
    :raise Invalid: naming what the snapshot has decided already.
    """
    was = snapshot.spec
    _refuse_decided(wanted)
    for mount in wanted.mounts:
        if mount.overlay and Overlay(mount.volume, mount.overlay) not in was.overlays:
            text = f"volumes: the snapshot's disk has no such overlay for {mount.name}"
            raise Invalid(text, field="volumes", subject=mount.volume)
    if snapshot.kind is SnapshotKind.FULL:
        _refuse_changed_machine(wanted, was)
    else:
        was = replace(was, memory=was.usable, allowance=Bytes(0))  # it boots: with what the source was left
    check_env(wanted.env)
    free = tuple(Port(port.guest, 0, port.protocol) for port in was.ports)
    return check_spec(
        replace(
            was, origin=snapshot.id, vcpus=_or(wanted.vcpus, was.vcpus), memory=_or(wanted.memory, was.memory),
            env=tuple({**dict(was.env), **dict(wanted.env)}.items()), hostname=wanted.hostname or was.hostname,
            ports=_or(wanted.ports, free), restart=_or(wanted.restart, was.restart),
            autostart=_or(wanted.autostart, was.autostart), grace=_or(wanted.grace, was.grace),
            labels=_or(wanted.labels, was.labels), compression=_or(wanted.compression, was.compression),
            compression_delay=_or(wanted.compression_delay, was.compression_delay),
            standby=_or(wanted.standby, was.standby),
            disk_rate=_or(wanted.disk_rate, was.disk_rate),
            download_rate=_or(wanted.download_rate, was.download_rate),
            upload_rate=_or(wanted.upload_rate, was.upload_rate), health=_or(wanted.health, was.health),
            egress=_or(wanted.egress, was.egress), vaults=bindings(wanted),
            ending=_or(wanted.ending, Ending()), macs=(), later=None,
        )
    )  # fmt: skip


def _refuse_decided(wanted: Create) -> None:
    given = {
        "disk": wanted.disk is not None,
        "shape": wanted.shape is not None,
        "firmware": wanted.firmware is not None,
        "command": wanted.command is not None,
        "entrypoint": wanted.entrypoint is not None,
        "cwd": bool(wanted.cwd),
        "user": bool(wanted.user),
        "network": wanted.network is not None,
        "cloud_init": wanted.cloud_init != CloudInit(),
        "displays": wanted.displays is not None,
        "nics": wanted.bridged is not None,
        "tpm": wanted.tpm is not None,
        "blank": wanted.blank,
    }
    for field, said in given.items():
        if said:
            raise Invalid(f"{field}: the snapshot has it already", field=field)


def _refuse_changed_machine(wanted: Create, was: Spec) -> None:
    """A machine that goes on from its memory is the machine that it was, down to hardware addresses that two must not
    have on one network."""
    if was.bridged:
        raise Unsupported("nics: a machine on a bridge of the host has no copy that goes on from memory", field="nics")
    given = {
        "vcpus": wanted.vcpus not in (None, was.vcpus),
        "memory": wanted.memory not in (None, was.memory),
        "env": bool(wanted.env),
        "volumes": bool(wanted.mounts),
    }
    for field, said in given.items():
        if said:
            raise Invalid(f"{field}: a snapshot with memory goes on as it was", field=field)


def _or(given: T | None, usual: T) -> T:
    return usual if given is None else given


def _firmware(wanted: Create, shape: Shape) -> Firmware:
    if shape is Shape.MICRO:
        if wanted.firmware not in (None, Firmware.NONE):
            raise Invalid("firmware: a root file system image boots without one", field="firmware")
        return Firmware.NONE
    if wanted.firmware is Firmware.NONE:
        raise Invalid("firmware: a disk image needs bios or uefi", field="firmware")
    return wanted.firmware or Firmware.BIOS


def _argv(wanted: Create, image: Image) -> tuple[int, tuple[str, ...]]:
    """Entry point and command as OCI has it: a new entry point drops the image's command. Its length comes first."""
    entrypoint = wanted.entrypoint if wanted.entrypoint is not None else image.config.entrypoint
    command = wanted.command
    if command is None:
        command = image.config.cmd if wanted.entrypoint is None else ()
    return len(entrypoint), (*entrypoint, *command)


def with_command(spec: Spec, entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None) -> Spec:
    """The Spec with another entry point or command; what is None stays. :raise Invalid: naming the field."""
    first = spec.argv[: spec.lead] if entrypoint is None else entrypoint
    rest = spec.argv[spec.lead :] if command is None else command
    return check_spec(replace(spec, argv=(*first, *rest), lead=len(first)))


def _env(wanted: Create, image: Image) -> tuple[tuple[str, str], ...]:
    return tuple({**dict(image.config.env), **dict(wanted.env)}.items())
