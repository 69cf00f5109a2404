"""What an image of memory is of, and whether a machine of this host can go on from it."""

from __future__ import annotations

from pathlib import Path

from polyvisor.host.memory.images import Facts
from polyvisor.host.memory.records import Holds
from polyvisor.host.paths import Paths
from polyvisor.model.compression import Packing
from polyvisor.model.faults import Unsupported
from polyvisor.model.host import Blueprint
from polyvisor.model.instance import Bus
from polyvisor.ports.hypervisor import Cpu, Hypervisor, Layout

_SAME_RATE = 0.005  # it is measured, and not more exactly than that on a busy host


def facts_of(
    blueprint: Blueprint, holds: Holds, layout: Layout, hypervisor: Hypervisor, boot: str, packing: Packing
) -> Facts:
    """Of an image that is made of a machine now."""
    spec, cpu = blueprint.spec, hypervisor.cpu
    return Facts(
        1, holds.base, holds.strange, spec.memory, hypervisor.name, hypervisor.version, hypervisor.accelerator,
        spec.shape, spec.vcpus, layout.slots, dict(layout.taken), boot, spec.bare, machine=hypervisor.machine(spec),
        cpu=cpu.model, features=dict(cpu.features), tsc_khz=cpu.tsc_khz, packing=words_of(packing), delay=packing.delay,
        balloon=layout.balloon,
    )  # fmt: skip


def words_of(packing: Packing) -> str:
    """What an image is to be compressed by; nothing: it is not."""
    return str(packing.compression) if packing.compression else ""


def require_fit(facts: Facts, blueprint: Blueprint, hypervisor: Hypervisor, paths: Paths) -> None:
    """:raise Unsupported: this host cannot go on from it as that instance, and why."""
    spec = blueprint.spec
    for what, was, now in (
        ("hypervisor", facts.hypervisor, hypervisor.name),
        ("hypervisor version", facts.version, hypervisor.version),
        ("accelerator", facts.accelerator, hypervisor.accelerator),
        ("shape", facts.shape, spec.shape),
        ("machine", facts.machine, hypervisor.machine(spec)),
        ("cpu", facts.cpu, hypervisor.cpu.model),
        ("vcpus", facts.vcpus, spec.vcpus),
        ("memory", facts.size, spec.memory),
        (
            "set of volumes",
            sorted(facts.disks),
            sorted(disk.serial for disk in blueprint.disks if disk.bus is Bus.VIRTIO),
        ),
    ):
        if was != now:
            raise Unsupported(f"the saved memory is of another {what}: {was}, this is {now}")
    if facts.balloon and "balloon" not in hypervisor.abilities:
        raise Unsupported("the saved memory is of a machine with a balloon, and this host makes none")
    _require_cpu(facts, hypervisor.cpu)
    for disk in blueprint.disks:
        then = facts.volumes.get(disk.serial)
        if then is not None and then != last_written(paths.volume(disk.volume, disk.pool)):
            text = f"volumes: {disk.volume} was written to since, so the saved memory does not fit it"
            raise Unsupported(text, field="volumes", subject=disk.volume)


def _require_cpu(facts: Facts, cpu: Cpu) -> None:
    """Of the same model; microcode may have brought features, and taken none that the guest relies on."""
    missing = {name: bits for name, was in facts.features.items() if (bits := was & ~cpu.features.get(name, 0))}
    if missing:
        names = ", ".join(f"{name}:{bits:08x}" for name, bits in missing.items())
        raise Unsupported(f"the saved memory is of another cpu: this one lacks features of it (cpuid {names})")
    if abs(facts.tsc_khz - cpu.tsc_khz) > max(facts.tsc_khz, cpu.tsc_khz) * _SAME_RATE:
        text = f"its counter ran at {facts.tsc_khz} kHz, this one's does at {cpu.tsc_khz}"
        raise Unsupported(f"the saved memory is of another cpu: {text}")


def volumes_of(blueprint: Blueprint, paths: Paths) -> dict[str, int]:
    """When each volume was written to for the last time, by serial: who outlives the claim on one must be able to tell
    whether it is still what memory knows of it."""
    return {disk.serial: last_written(paths.volume(disk.volume, disk.pool)) for disk in blueprint.disks}


def last_written(file: Path) -> int:
    """In nanoseconds since 1970; 0: it is gone."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
