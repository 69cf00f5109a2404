"""From what was asked and what the image says to a Spec. Pure."""

from __future__ import annotations

from polyvisor.model.faults import Invalid
from polyvisor.model.image import Image, ImageKind
from polyvisor.model.request import Create
from polyvisor.model.spec import DEFAULT_DISK, DEFAULT_MEMORY, Firmware, Shape, Spec, check_env, check_spec
from polyvisor.model.units import MIB, Bytes

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
    return check_spec(
        Spec(
            image=image.id, image_name=wanted.image, shape=shape, firmware=_firmware(wanted, shape),
            vcpus=wanted.vcpus, memory=memory, disk=disk, argv=_argv(wanted, image), env=_env(wanted, image),
            cwd=wanted.cwd or image.config.workdir, user=wanted.user or image.config.user, hostname=wanted.hostname,
            network=wanted.network, ports=wanted.ports, cloud_init=wanted.cloud_init, restart=wanted.restart,
            autostart=wanted.autostart, grace=wanted.grace, labels=wanted.labels,
        )
    )  # fmt: skip


def _firmware(wanted: Create, shape: Shape) -> Firmware:
    if shape is Shape.MICRO:
        if wanted.firmware not in (None, Firmware.NONE):
            raise Invalid("firmware: a root file system image boots without one", field="firmware")
        return Firmware.NONE
    if wanted.firmware is Firmware.NONE:
        raise Invalid("firmware: a disk image needs bios or uefi", field="firmware")
    return wanted.firmware or Firmware.BIOS


def _argv(wanted: Create, image: Image) -> tuple[str, ...]:
    """Entry point and command as OCI has it: a new entry point drops the image's command."""
    entrypoint = wanted.entrypoint if wanted.entrypoint is not None else image.config.entrypoint
    if wanted.command is not None:
        return (*entrypoint, *wanted.command)
    return (*entrypoint, *(image.config.cmd if wanted.entrypoint is None else ()))


def _env(wanted: Create, image: Image) -> tuple[tuple[str, str], ...]:
    return tuple({**dict(image.config.env), **dict(wanted.env)}.items())
