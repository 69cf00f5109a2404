"""What guests see of a processor, read from what KVM says and from nothing else."""

from __future__ import annotations

import os

import pytest

from polyvisor.host.hypervisor.qemu.cpu import Entry, cpu_of, supported, told
from polyvisor.host.hypervisor.qemu.probe import Accelerator
from polyvisor.ports.hypervisor import Cpu


def words(text: str) -> list[int]:
    """As they stand in registers."""
    data = text.encode().ljust(-(-len(text) // 4) * 4, b"\0")
    return [int.from_bytes(data[n : n + 4], "little") for n in range(0, len(data), 4)]


def entries(name: str = "Maker(R)  Thing 9 ", sign: int = 0x906EA, edx: int = 0xFF) -> list[Entry]:
    """Of a processor that has little."""
    b, d, c = words("GenuineMaker")
    brand = [*words(name), *[0] * 12]
    return [
        (0x0, 0, 0x16, b, c, d),
        (0x1, 0, sign, 0, 0x3, edx),
        (0x7, 0, 2, 0x20, 0, 0x04000000),
        (0x80000002, 0, *brand[:4]),  # type: ignore[list-item]  # four of them
        (0x80000003, 0, *brand[4:8]),  # type: ignore[list-item]
    ]


def test_a_model_is_its_maker_its_signature_and_its_name() -> None:
    found = told(entries())
    assert found.model == "GenuineMaker 000906ea Maker(R) Thing 9"
    assert found.features == {
        "1.0.ecx": 3, "1.0.edx": 0xFF, "7.0.ebx": 0x20, "7.0.ecx": 0, "7.0.edx": 0x04000000,
    }  # fmt: skip
    assert told(entries(sign=0x906EB)).model != found.model
    assert told(entries(edx=0x7F)).model == found.model
    assert told([]) == Cpu("00000000")


def test_an_emulated_one_depends_on_the_hosts_counter_alone() -> None:
    assert cpu_of(Accelerator("tcg", "max"), 2_100_000) == Cpu("max", tsc_khz=2_100_000)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK), reason="there is no KVM to ask here")
def test_kvm_says_the_same_twice() -> None:
    first = cpu_of(Accelerator("kvm", "host"), 0)
    assert first == told(supported())
    assert first.features["1.0.edx"]
