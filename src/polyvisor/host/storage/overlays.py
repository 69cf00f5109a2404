"""Empty qcow2 overlays, and one joined into what lies below it. Every format is given, none is probed."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from pathlib import Path
from typing import Any

from polyvisor.host.run import run
from polyvisor.host.storage.files import write_sparse
from polyvisor.model.faults import Internal, NoCapacity
from polyvisor.model.units import MIB
from polyvisor.ports.hypervisor import DiskFile

_LIMIT = 60.0
_JOIN_LIMIT = 3600.0
_KEPT = 64
_BACKING_AT, _BACKING = 8, struct.Struct(">QI")  # in the header: where the name of what lies below is, and its length
_LARGEST_KEPT = MIB  # bytes of an empty overlay; those of the largest disks are not worth keeping


class Overlays:
    """All of one size are the same bytes but for the name of what lies below, so the first one with a name of that
    length is made, and others are copies with another name in them."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str, int], bytes] = {}

    async def make(self, disk: Path, back: DiskFile, size: int) -> None:
        """An empty overlay under that name, whole or not at all. What lies below is named in it for tools and people;
        a machine is told by us.

        :raise NoCapacity: the disk is full.
        """
        part = disk.with_suffix(".part")
        part.unlink(missing_ok=True)
        behind = os.path.relpath(back.path, part.parent)
        like = (len(os.fsencode(behind)), back.format, size)
        known = self._known.get(like)
        if known is not None:
            await asyncio.to_thread(write_sparse, renamed(known, behind), part)
        else:
            words = ["create", "-q", "-u", "-f", "qcow2", "-F", back.format, "-b", behind]
            await _qemu_img(words, part, str(size))
            if part.stat().st_size <= _LARGEST_KEPT:
                if len(self._known) >= _KEPT:
                    self._known.pop(next(iter(self._known)))
                self._known[like] = await asyncio.to_thread(part.read_bytes)
        part.rename(disk)


def renamed(overlay: bytes, behind: str) -> bytes:
    """The qcow2 file with that name of what lies below it in place of one that is as long."""
    at, length = _BACKING.unpack_from(overlay, _BACKING_AT)
    name = os.fsencode(behind)
    if length != len(name):
        raise ValueError(f"{name!r} is not {length} bytes long")
    return overlay[:at] + name + overlay[at + length :]


async def _qemu_img(words: list[str], target: Path, *more: str) -> None:
    try:
        await run(["qemu-img", *words, str(target), *more], timeout=_LIMIT)
    except Internal as error:
        target.unlink(missing_ok=True)
        if "No space left" in error.private:
            raise NoCapacity("the host's disk is full") from error
        raise


async def join(upper: DiskFile) -> None:
    """Copy what `upper` holds into the file below it, which then reads as `upper` does; `upper` stays as it is.

    Nobody may need the lower one but through `upper`. Machines that have both open see no difference: they read the
    lower one only where `upper` has nothing, and that is not touched. So their locks need not be asked either.
    """
    assert upper.backing is not None and upper.backing.backing is not None
    options = _options(upper)
    for node in (options, options["backing"]):  # the two that are opened for writing
        del node["read-only"], node["file"]["read-only"]
    await run(["qemu-img", *["commit", "-q", "-d"], "json:" + json.dumps(options)], timeout=_JOIN_LIMIT)


def _options(disk: DiskFile) -> dict[str, Any]:
    file = {"driver": "file", "filename": str(disk.path), "locking": "off", "read-only": True}
    below = {"backing": _options(disk.backing)} if disk.backing else {}
    return {"driver": disk.format, "read-only": True, "file": file, **below}
