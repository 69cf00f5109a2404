"""What a micro guest is told about itself: pairs in a firmware file, read by the agent before anything else runs."""

from __future__ import annotations

from polyvisor.host.guest import pairs
from polyvisor.host.guest.agent import network_pairs
from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import machine_id
from polyvisor.model.spec import Shape


def guest_config(blueprint: Blueprint, search: str = "") -> bytes:
    """The bytes for the firmware; nothing for a full guest, which has its seed. :raise Invalid: a NUL in a text.

    `search` is the domain in which the guest looks short names up.
    """
    spec = blueprint.spec
    if spec.shape is Shape.FULL:
        return b""
    told = [("hostname", spec.hostname or blueprint.name), ("machine_id", machine_id(blueprint.id))]
    if blueprint.address is not None:
        told += network_pairs(blueprint.address)
        if search:
            told.append(("search", search))
    if spec.overlays:
        told.append(("overlays", str(len(spec.overlays))))
    for disk in blueprint.disks:
        if disk.path:
            told.append(("mount", f"{disk.serial} {_how(disk)} {disk.path}"))
    told += [("cwd", spec.cwd or "/"), ("user", spec.user or "0")]
    told += [("env", f"{name}={value}") for name, value in spec.env]
    told += [("arg", word) for word in spec.argv]
    return pairs.pack(told)


def _how(disk: Disk) -> str:
    if disk.overlay is not None:
        return f"o{disk.overlay}"
    return "ro" if disk.read_only else "rw"
