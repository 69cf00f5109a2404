"""What an image of memory fits: the reason for a refusal names what differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from polyvisor.host.hypervisor.fake.driver import FakeHypervisor
from polyvisor.host.memory.fits import facts_of, require_fit, volumes_of
from polyvisor.host.memory.records import Holds
from polyvisor.host.paths import Paths
from polyvisor.model.compression import AS_IT_IS
from polyvisor.model.faults import Unsupported
from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import Digest, InstanceId, ProjectId
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.hypervisor import Cpu, Layout

SPEC = Spec(Digest("sha256:0"), "busybox", Shape.MICRO, Firmware.NONE, 2, Bytes(96 * MIB), Bytes(64 * MIB))
DISK = Disk("volumeid", "volumeid", Bytes(0), "/data", read_only=True)
HERE = Cpu("Model A", {"1.0.edx": 0b0110, "7.0.edx": 0b1}, 2_100_000)


def blueprint(spec: Spec = SPEC, *disks: Disk) -> Blueprint:
    """Of one instance."""
    return Blueprint(InstanceId("i"), 1, ProjectId("p"), "it", spec, None, disks)


def driver(cpu: Cpu = HERE, **given: str) -> FakeHypervisor:
    """A host's."""
    made = FakeHypervisor(Path("/nothing"))
    made.cpu = cpu
    for name, value in given.items():
        setattr(made, name, value)
    return made


FACTS = facts_of(blueprint(), Holds(), Layout(4, {}), driver(), "boot", AS_IT_IS)
PATHS = Paths(Path("/nothing"))


@pytest.mark.parametrize(
    "cpu",
    [
        HERE,
        replace(HERE, features={"1.0.edx": 0b1111, "7.0.edx": 0b1, "7.1.eax": 1}),
        replace(HERE, tsc_khz=2_100_900),
    ],
    ids=["the same", "newer microcode", "measured again"],
)
def test_it_goes_on_where_nothing_is_missed(cpu: Cpu) -> None:
    require_fit(FACTS, blueprint(), driver(cpu), PATHS)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (driver(replace(HERE, model="Model B")), "another cpu: Model A, this is Model B"),
        (driver(replace(HERE, features={"1.0.edx": 0b10, "7.0.edx": 1})), r"features of it \(cpuid 1.0.edx:00000004"),
        (driver(replace(HERE, features={})), r"cpuid 1.0.edx:00000006, 7.0.edx:00000001"),
        (driver(replace(HERE, tsc_khz=2_400_000)), "ran at 2100000 kHz, this one's does at 2400000"),
        (driver(name="qemu"), "another hypervisor: fake, this is qemu"),
        (driver(version="2"), "another hypervisor version: 1, this is 2"),
        (driver(accelerator="kvm"), "another accelerator: none, this is kvm"),
    ],
)  # fmt: skip
def test_another_host_is_refused_by_what_differs(host: FakeHypervisor, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        require_fit(FACTS, blueprint(), host, PATHS)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (replace(SPEC, vcpus=1), "another vcpus: 2, this is 1"),
        (replace(SPEC, memory=Bytes(128 * MIB)), "another memory"),
        (replace(SPEC, shape=Shape.FULL), "another shape"),
    ],
)
def test_another_machine_is_refused(spec: Spec, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        require_fit(FACTS, blueprint(spec), driver(), PATHS)
    with pytest.raises(Unsupported, match="another machine: q35, this is fake micro"):
        require_fit(replace(FACTS, machine="q35"), blueprint(), driver(), PATHS)


def test_a_volume_that_was_written_to_since(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.make()
    paths.volume("volumeid").write_bytes(b"then")
    with_it = blueprint(SPEC, DISK)
    facts = facts_of(with_it, Holds(), Layout(4, {"volumeid": 0}), driver(), "boot", AS_IT_IS)
    kept = replace(facts, volumes=volumes_of(with_it, paths))
    require_fit(kept, with_it, driver(), paths)
    with pytest.raises(Unsupported, match="another set of volumes"):
        require_fit(kept, blueprint(), driver(), paths)
    paths.volume("volumeid").unlink()
    require_fit(facts, with_it, driver(), paths)  # who waits in it holds the volume
    with pytest.raises(Unsupported, match="written to since") as caught:
        require_fit(kept, with_it, driver(), paths)
    assert caught.value.field == "volumes"
