"""Which accelerator works here, found by running guest code.

A `/dev/kvm` that opens proves nothing: on some hosts a vCPU never executes an instruction. So a 64 KiB firmware
whose reset vector writes one byte to the exit device is run under each candidate; only its exit status counts.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.hypervisor.qemu.process import as_user
from polyvisor.host.pids import uid_of
from polyvisor.host.run import run
from polyvisor.model.faults import Fault, Unsupported

_TOKEN = 0x2A
_EXIT_STATUS = (_TOKEN << 1) | 1  # what isa-debug-exit makes of the byte
_FIRMWARE_SIZE = 64 * 1024
_RESET_VECTOR = 0xFFF0
_TIME_LIMIT = 1.8
# A fifth level of page tables is one more to walk at every miss, and nobody needs it. A CPU with "fast strings" makes
# kernels and libraries copy with `rep movsb`, which TCG executes byte by byte: without, a boot takes a third less.
_EMULATED = "max,la57=off,erms=off,fsrm=off"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One that was seen to run guest code; `refused` says why better ones were not taken."""

    name: str
    cpu: str
    refused: str = ""

    @property
    def option(self) -> str:
        """The value of QEMU's `-accel`."""
        return "tcg,thread=multi" if self.name == "tcg" else self.name


def firmware() -> bytes:
    """`mov al, token; out 0xf4, al; hlt` at the reset vector."""
    code = bytes((0xB0, _TOKEN, 0xE6, 0xF4, 0xF4))
    image = bytearray(b"\xf4" * _FIRMWARE_SIZE)
    image[_RESET_VECTOR : _RESET_VECTOR + len(code)] = code
    return bytes(image)


async def runs_guest_code(binary: str, accel: str, cpu: str, limit: float) -> bool:
    """Whether a vCPU executes the probe under `accel` within `limit` seconds."""
    with tempfile.TemporaryDirectory(prefix="polyvisor-probe-") as folder:
        blob = Path(folder) / "probe.bin"
        blob.write_bytes(firmware())
        Path(folder).chmod(0o755)
        credentials = as_user(uid_of(0)) if os.geteuid() == 0 else []  # as the machines themselves
        argv = [
            *credentials, binary, "-accel", accel, "-cpu", cpu, "-machine", "pc", "-m", "16",
            "-nodefaults", "-no-user-config", "-display", "none", "-bios", str(blob),
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ]  # fmt: skip
        try:
            done = await run(argv, timeout=limit, check=False)
        except Fault:
            return False
        return done.code == _EXIT_STATUS


async def find_accelerator(binary: str) -> Accelerator:
    """KVM where a guest really runs on it, else TCG.

    :raise Unsupported: not even TCG runs guest code.
    """
    refused = "/dev/kvm is not accessible"
    if await asyncio.to_thread(os.access, "/dev/kvm", os.R_OK | os.W_OK):
        if await runs_guest_code(binary, "kvm", "host", _TIME_LIMIT):
            return Accelerator("kvm", "host")
        refused = "/dev/kvm opens, but a guest does not run on it under the credentials of a machine"
    if await runs_guest_code(binary, "tcg,thread=multi", _EMULATED, 20.0):
        return Accelerator("tcg", _EMULATED, refused)
    raise Unsupported("this host cannot run guest code at all", private=f"kvm: {refused}; tcg: no exit either")
