"""The library by which memory is given back: loaded, or the machine does not start."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from polyvisor.host.hypervisor.qemu import discard
from polyvisor.model.faults import Internal


def check(library: Path, held: int) -> None:
    """Of a process that was given this descriptor to load."""
    with subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[held],
        env=discard.environment(held, held),
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"up\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"up\n"
        try:
            discard.require_loaded(process.pid, library)
        finally:
            process.stdin.close()


def test_a_process_that_has_not_loaded_it_is_told_from_one_that_has(tmp_path: Path) -> None:
    library = asyncio.run(discard.build(tmp_path))
    assert library is not None
    nothing = tmp_path / "nothing.so"
    nothing.write_bytes(b"")
    with library.open("rb") as good, nothing.open("rb") as bad:
        check(library, good.fileno())
        with pytest.raises(Internal):
            check(library, bad.fileno())
