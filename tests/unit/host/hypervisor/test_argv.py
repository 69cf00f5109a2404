"""The command line, word for word: a golden for each kind of machine, so that no change of it goes unseen.

The goldens are written by `python tests/unit/host/hypervisor/test_argv.py`, never by hand.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyvisor.host.hypervisor.qemu import argv as subject
from polyvisor.host.hypervisor.qemu.argv import Facts, argv, files
from polyvisor.host.hypervisor.qemu.probe import Accelerator
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import Digest, InstanceId, ProjectId
from polyvisor.model.instance import Address, Bus
from polyvisor.model.spec import FIRST_TPM, Display, Firmware, Shape, Spec
from polyvisor.model.units import GIB, MIB, Bytes
from polyvisor.ports.hypervisor import BridgedNic, DiskFile, Layout, Machine, Memory, TapNic, UserNic

GOLDENS = Path(__file__).with_name("argv")
TCG = Facts("/usr/bin/qemu", "7.2", Accelerator("tcg", "max"), Path("/ovmf/code.fd"), Path("/ovmf/vars.fd"), 2_500_000)
BALLOONS = replace(TCG, discard=Path("/b/discard.so"))
KVM = replace(TCG, binary="/opt/qemu", accelerator=Accelerator("kvm", "host"), tsc_khz=0)
ADDRESS = Address("02:00:00:00:00:07", "10.128.7.15", 24, "10.128.7.2", "10.128.7.3")
BRIDGED = Address("02:00:00:00:00:09", "10.77.0.9", 16, "10.77.0.1", "10.77.0.1")
FORWARDS = UserNic((("tcp", 2222, 22), ("udp", 5353, 53)))
TAP = TapNic("pv9")
BRIDGES = (BridgedNic("br0", "02:00:00:00:01:00"), BridgedNic("br1", "02:00:00:00:01:01"))
VOLUMES = (
    DiskFile(Path("/v/one.raw"), "raw", "volumeone", removable=True),
    DiskFile(Path("/v/two.raw"), "raw", "volumetwo", read_only=True, removable=True),
)
Case = tuple[Machine, Facts]


def layered(disk: DiskFile, *layers: str) -> DiskFile:
    """That disk with those between it and what it stood on, the uppermost first; one was made after another."""
    below = disk.backing
    for name in reversed(layers):
        below = DiskFile(Path(f"/l/{name}/disk.qcow2"), "qcow2", "", read_only=True, backing=below)
    return replace(disk, backing=below, generation=len(layers))


def micro(nic: UserNic | TapNic | None, address: Address | None, *volumes: DiskFile, **fields: Any) -> Machine:
    """A machine of the micro shape."""
    blank = DiskFile(Path("/blanks/ext4.raw"), "raw", "", read_only=True)
    own = (DiskFile(Path("/i/root.squashfs"), "raw", "pvroot", read_only=True),
           DiskFile(Path("/n/disk.qcow2"), "qcow2", "pvdata", backing=blank))  # fmt: skip
    blueprint = _blueprint("aaaaaaaaaaaaaaaaaaaaaaaa", Shape.MICRO, Firmware.NONE, address, **fields)
    return Machine(blueprint, Path("/n"), (*own, *volumes), nic, Path("/b/vmlinux"), Path("/b/initrd"), b"config")


def full(
    firmware: Firmware, nic: UserNic | TapNic | None, address: Address | None, *volumes: DiskFile, seed: bool = True
) -> Machine:
    """A machine of the full shape."""
    image = DiskFile(Path("/i/disk.qcow2"), "qcow2", "", read_only=True)
    own = DiskFile(Path("/n/disk.qcow2"), "qcow2", "pvdisk", backing=image, boot=True)
    blueprint = _blueprint("bbbbbbbbbbbbbbbbbbbbbbbb", Shape.FULL, firmware, address, memory=Bytes(GIB + 1))
    return Machine(blueprint, Path("/n"), (own, *volumes), nic, seed=Path("/n/seed.iso") if seed else None)


def blank(firmware: Firmware, *disks: DiskFile) -> Machine:
    """A machine that boots those alone, with a screen."""
    screens = (Display("main", 800, 600), Display("other", 1024, 768))
    more = {"image": Digest(""), "disk": Bytes(0), "displays": screens}
    blueprint = _blueprint("cccccccccccccccccccccccc", Shape.FULL, firmware, None, **more)
    return Machine(blueprint, Path("/n"), tuple(replace(disk, boot=True) for disk in disks), None, bridged=BRIDGES)


def with_tpm(machine: Machine) -> Machine:
    """That machine with a TPM."""
    spec = replace(machine.blueprint.spec, tpm=FIRST_TPM)
    return replace(machine, blueprint=replace(machine.blueprint, spec=spec))


def _blueprint(id: str, shape: Shape, firmware: Firmware, address: Address | None, **fields: Any) -> Blueprint:
    spec = Spec(Digest("sha256:0"), "image", shape, firmware, 1, Bytes(256 * MIB), Bytes(GIB))
    return Blueprint(InstanceId(id), 7, ProjectId("p"), "name", replace(spec, **fields), address)


def above(machine: Machine, *layers: str) -> Machine:
    """That machine, with its writable disk above those layers."""
    return replace(machine, disks=tuple(layered(d, *layers) if d.backing else d for d in machine.disks))


CASES: dict[str, Case] = {
    "micro-alone": (micro(None, None), TCG),
    "micro-kvm": (micro(None, None, vcpus=4, memory=Bytes(64 * MIB)), KVM),
    "micro-user": (micro(FORWARDS, ADDRESS), TCG),
    "micro-tap": (micro(TAP, BRIDGED), TCG),
    "micro-volumes": (micro(None, None, *VOLUMES), TCG),
    "micro-memory": (replace(micro(None, None), memory=Memory(Path("/m/a.ram"), own=True)), TCG),
    "bios-memory": (replace(full(Firmware.BIOS, None, None), memory=Memory(9, own=False)), TCG),
    "uefi-memory": (replace(full(Firmware.UEFI, None, None), memory=Memory(9, own=True)), TCG),
    "micro-plugged": (replace(micro(None, None, *VOLUMES), layout=Layout(5, {"volumeone": 4, "volumetwo": 1})), TCG),
    "micro-balloon": (micro(None, None, *VOLUMES), BALLOONS),
    "uefi-balloon": (full(Firmware.UEFI, TAP, BRIDGED), BALLOONS),
    "micro-without": (replace(micro(None, None), layout=Layout(4, {})), BALLOONS),
    "micro-layers": (above(micro(None, None, *VOLUMES), "two", "one"), TCG),
    "bios-layers": (above(full(Firmware.BIOS, None, None), "three", "two", "one"), TCG),
    "bios-alone": (full(Firmware.BIOS, None, None), TCG),
    "bios-unseeded": (full(Firmware.BIOS, None, None, seed=False), TCG),
    "bios-user": (full(Firmware.BIOS, FORWARDS, ADDRESS), TCG),
    "bios-tap-volumes": (full(Firmware.BIOS, TAP, BRIDGED, *VOLUMES), TCG),
    "uefi-alone": (full(Firmware.UEFI, None, None), TCG),
    "uefi-user-volumes": (full(Firmware.UEFI, FORWARDS, ADDRESS, *VOLUMES), KVM),
    "uefi-blank": (blank(Firmware.UEFI, replace(VOLUMES[1], bus=Bus.USB), VOLUMES[0]), TCG),
    "uefi-tpm": (with_tpm(blank(Firmware.UEFI)), TCG),
    "uefi-tap": (full(Firmware.UEFI, TAP, BRIDGED), TCG),
}


def command_line(case: Case) -> str:
    """One word a line; descriptors are counted from 100 in the order in which the driver opens them."""
    machine, facts = case
    keys = [file.key for file in files(machine, facts)] + ["qmp", "console-socket", "agent", "tap", "net", "memory"]
    keys += [*(f"bridged{index}" for index in range(len(machine.bridged))), "tpm"]
    return "\n".join(argv(machine, facts, {key: 100 + index for index, key in enumerate(keys)})) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_the_command_line_is_the_golden_one(name: str) -> None:
    assert command_line(CASES[name]) == (GOLDENS / f"{name}.txt").read_text()


def test_what_is_restored_waits_for_it_and_does_not_boot_anew() -> None:
    machine, facts = CASES["micro-memory"]
    keys = [*(file.key for file in files(machine, facts)), "qmp", "console-socket", "agent", "memory"]
    fds = {key: 100 + index for index, key in enumerate(keys)}
    cold, restored = argv(machine, facts, fds), argv(machine, facts, fds, restoring=True)
    more = ["-S", "-incoming", "defer", "-global", "migration.send-configuration=off", "-action", "reboot=shutdown"]
    at = restored.index("-S")
    assert restored[at : at + len(more)] == more
    assert [*restored[:at], *restored[at + len(more) :]] == cold


def test_every_golden_belongs_to_a_case() -> None:
    assert {file.stem for file in GOLDENS.iterdir()} == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_no_path_of_an_instance_is_in_it(name: str) -> None:
    machine, facts = CASES[name]
    text = command_line((machine, facts))
    paths = [file.path for file in files(machine, facts)] + [machine.directory]
    assert [path for path in paths if f"{path}/" in text or f"={path}" in text or f"\n{path}\n" in text] == []


# -- nothing that it depends on is left out -------------------------------------------------------------------------

KINDS = (Spec, DiskFile, Memory, Machine, Blueprint, Address, Facts, Accelerator)


def read_fields() -> set[tuple[str, str]]:
    """(class, field) of what the module reads, by the fields' names: a superset where two classes share one."""
    names = {node.attr for node in ast.walk(ast.parse(inspect.getsource(subject))) if isinstance(node, ast.Attribute)}
    return {(kind.__name__, f.name) for kind in KINDS for f in dataclasses.fields(kind) if f.name in names}


def values(part: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """Every field of every dataclass in there, with its value."""
    if isinstance(part, tuple):
        for item in part:
            yield from values(item)
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            yield (type(part).__name__, field.name), value
            yield from values(value)


def test_every_field_that_is_read_has_two_values_among_the_goldens() -> None:
    seen: dict[tuple[str, str], set[str]] = {}
    for case in CASES.values():
        for key, value in values(case):
            seen.setdefault(key, set()).add(repr(value))
    same = {key for key in read_fields() if len(seen.get(key, ())) < 2}
    assert same == CONSTANT.keys()


# Read as well, and not of the command line's making.
CONSTANT = {
    ("Machine", "directory"): "files are opened by us",
    ("Facts", "ovmf_code"): "opened by us",
    ("Blueprint", "disks"): "the machine's field of that name",
    ("Spec", "bridged"): "the machine's field of that name",
}


@pytest.mark.parametrize("part", ["vcpus", "memory"])
def test_a_number_of_the_spec_changes_the_line(part: str) -> None:
    machine, facts = CASES["micro-alone"]
    changed: Any = {part: 777 * MIB}
    spec = replace(machine.blueprint.spec, **changed)
    other = replace(machine, blueprint=replace(machine.blueprint, spec=spec))
    assert command_line((other, facts)) != command_line((machine, facts))


def test_two_shapes_two_firmwares_and_three_ways_of_networking_are_all_there() -> None:
    machines = [machine for machine, _ in CASES.values()]
    assert {m.blueprint.spec.shape for m in machines} == set(Shape)
    assert {m.blueprint.spec.firmware for m in machines} == set(Firmware)
    kinds = {(m.blueprint.spec.firmware, type(m.nic)) for m in machines}
    assert kinds == {(firmware, nic) for firmware in Firmware for nic in (UserNic, TapNic, type(None))}


if __name__ == "__main__":
    GOLDENS.mkdir(exist_ok=True)
    for case_name, case in CASES.items():
        (GOLDENS / f"{case_name}.txt").write_text(command_line(case))
