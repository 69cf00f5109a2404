"""What guests see of this host's processor, so that memory of one that saw another is not gone on from.

Emulated, it is the emulator's own, but for the counter that a guest keeps the time by: that is the host's. Under KVM,
`-cpu host` shows what KVM lets through, and KVM says what that is.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct
from collections.abc import Iterable
from pathlib import Path

from polyvisor.host.hypervisor.qemu.probe import Accelerator
from polyvisor.ports.hypervisor import Cpu

_KVM = Path("/dev/kvm")
_GET_SUPPORTED_CPUID = 0xC008AE05
_MOST = 256
_HEAD, _ENTRY = struct.Struct("=II"), struct.Struct("=IIIIIII12x")  # kvm_cpuid2 and kvm_cpuid_entry2 of linux/kvm.h
_REGISTERS = ("eax", "ebx", "ecx", "edx")
_FEATURES = {  # leaf and sub-leaf of CPUID: the registers whose bits are each a feature
    (0x1, 0): ("ecx", "edx"),
    (0x7, 0): ("ebx", "ecx", "edx"),
    (0x7, 1): ("eax", "edx"),
    (0xD, 0): ("eax", "edx"),
    (0xD, 1): ("eax",),
    (0x40000001, 0): ("eax",),
    (0x80000001, 0): ("ecx", "edx"),
    (0x80000007, 0): ("edx",),
    (0x80000008, 0): ("ebx",),
}
Entry = tuple[int, int, int, int, int, int]  # leaf, sub-leaf, eax, ebx, ecx, edx


def cpu_of(accelerator: Accelerator, tsc_khz: int) -> Cpu:
    """Of guests under that accelerator. :raise OSError: KVM does not say."""
    if accelerator.name != "kvm":
        return Cpu(accelerator.cpu, tsc_khz=tsc_khz)
    return told(supported())


def supported() -> list[Entry]:
    """What KVM lets guests see. :raise OSError: it cannot be asked."""
    buffer = ctypes.create_string_buffer(_HEAD.size + _MOST * _ENTRY.size)
    _HEAD.pack_into(buffer, 0, _MOST, 0)
    with _KVM.open("rb", buffering=0) as kvm:
        fcntl.ioctl(kvm.fileno(), _GET_SUPPORTED_CPUID, buffer)
    count, _ = _HEAD.unpack_from(buffer)
    found = [_ENTRY.unpack_from(buffer, _HEAD.size + n * _ENTRY.size) for n in range(count)]
    return [(leaf, index, eax, ebx, ecx, edx) for leaf, index, _, eax, ebx, ecx, edx in found]


def told(entries: Iterable[Entry]) -> Cpu:
    """The model by its maker, name, family, model and stepping, and its features. Not its microcode's revision."""
    of = {(leaf, index): dict(zip(_REGISTERS, words, strict=True)) for leaf, index, *words in entries}
    maker = _text(of, 0x0, ("ebx", "edx", "ecx"))
    name = "".join(_text(of, leaf, _REGISTERS) for leaf in (0x80000002, 0x80000003, 0x80000004))
    sign = of.get((0x1, 0), {}).get("eax", 0)
    features = {
        f"{leaf:x}.{index}.{register}": of[leaf, index][register]
        for (leaf, index), registers in _FEATURES.items()
        if (leaf, index) in of
        for register in registers
    }
    return Cpu(f"{maker} {sign:08x} {' '.join(name.split())}".strip(), features)


def _text(of: dict[tuple[int, int], dict[str, int]], leaf: int, registers: Iterable[str]) -> str:
    words = of.get((leaf, 0))
    if words is None:
        return ""
    return b"".join(words[r].to_bytes(4, "little") for r in registers).rstrip(b"\0").decode("ascii", "replace")
