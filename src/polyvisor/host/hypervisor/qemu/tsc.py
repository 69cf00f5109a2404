"""The rate of this host's time stamp counter, measured.

An emulated guest reads the host's counter, and on a machine without a timer chip it has nothing to calibrate it by: it
is told. What /proc/cpuinfo says is the clock of the moment, not the counter's.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import time

_READ = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_SPAN_NS = 40_000_000


def measure_khz() -> int:
    """Kilohertz, within about 50 parts in a million; 0 where there is no such counter."""
    if platform.machine() != "x86_64":
        return 0
    with mmap.mmap(-1, len(_READ), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_READ)
        entry = ctypes.c_char.from_buffer(page)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(entry))
        start, ticks = _pair(read)
        time.sleep(_SPAN_NS / 1e9)
        end, more = _pair(read)
        del read, entry  # the page cannot be closed under them
    return round((more - ticks) * 1_000_000 / (end - start))


def _pair(read: ctypes._CFunctionType) -> tuple[int, int]:
    """The clock and the counter at the same moment: of several tries the one that took least."""
    tries = []
    for _ in range(9):
        before = time.monotonic_ns()
        ticks = int(read())
        after = time.monotonic_ns()
        tries.append((after - before, (before + after) // 2, ticks))
    _, at, ticks = min(tries)
    return at, ticks
