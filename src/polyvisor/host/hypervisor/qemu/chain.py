"""The chain below a running machine's overlay, opened anew as it is on the disk by now.

Each snapshot of a running machine makes its chain longer by one, and layers that are joined on the disk are still read
one by one by whoever has them open. Both read the same, so the one can take the place of the other at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from polyvisor.host.hypervisor.qemu.argv import backings, node_of
from polyvisor.host.hypervisor.qemu.qmp import COMMAND_LIMIT
from polyvisor.model.faults import Fault, Internal
from polyvisor.ports.hypervisor import DiskFile

LONGER = 16  # a running machine's chain may be by so many longer than it need be
_FDSETS = 200_000  # fd sets of files opened anew are numbered from here
_OWN_SET = re.compile(r"/dev/fdset/(\d+)")
Give = Callable[[Path, int, int], Awaitable[None]]


class Ask(Protocol):
    """A command of the machine's monitor."""

    async def __call__(self, command: str, limit: float = 3.0, **arguments: Any) -> Any:
        """Its answer."""


async def renew(ask: Ask, give: Give, disk: DiskFile) -> None:
    """Put the chain below `disk`, which the machine writes to, in the place of the one that it has open.

    :raise Fault, OSError: it could not be; the machine goes on with what it has.
    """
    before = {
        node["node-name"]: node["file"] for node in await ask("query-named-block-nodes", COMMAND_LIMIT, flat=True)
    }
    sets = [found["fdset-id"] for found in await ask("query-fdsets", COMMAND_LIMIT)]
    first = max([_FDSETS, *sets]) + 1
    made: dict[str, int] = {}
    lower: str | None = None
    try:
        for index, (_, below) in reversed(list(enumerate(backings(disk)))):
            name = f"back-{disk.serial}-r{first - _FDSETS}-{index}"
            made[name] = first + index
            await give(below.path, os.O_RDONLY, first + index)
            await _open(ask, name, below.format, first + index, lower)
            lower = name
        node = node_of(disk)
        own = {"driver": disk.format, "node-name": node, "file": f"{node}-file", "read-only": False}
        await ask("blockdev-reopen", COMMAND_LIMIT, options=[{**own, "discard": "unmap", "backing": lower}])
    except (Fault, OSError):
        await _drop(ask, reversed(made), made.values())
        raise
    mine = re.compile(rf"(?:disk|back)-{disk.serial}(?:-[-r\d]+)?")
    old = [name for name in before if mine.fullmatch(name) and name != node_of(disk)]
    files = [_OWN_SET.fullmatch(before.get(f"{name}-file", "")) for name in old]
    await _drop(ask, sorted(old, key=_from_above), [int(match[1]) for match in files if match])


async def _open(ask: Ask, name: str, format: str, fdset: int, lower: str | None) -> None:
    file = {"driver": "file", "node-name": f"{name}-file", "filename": f"/dev/fdset/{fdset}"}
    below = {} if format == "raw" else {"backing": lower}
    for options in (file, {"driver": format, "node-name": name, "file": f"{name}-file", **below}):
        await ask("blockdev-add", COMMAND_LIMIT, **options, read_only=True)


async def _drop(ask: Ask, names: Iterable[str], sets: Iterable[int]) -> None:
    """Close those that nobody has below him. Which is tried again, the uppermost first, for as long as it helps."""
    left = [name for node in names for name in (node, f"{node}-file")]
    helped = True
    while left and helped:
        helped = False
        for name in list(left):
            with contextlib.suppress(Internal):
                await ask("blockdev-del", COMMAND_LIMIT, node_name=name)
                left.remove(name)
                helped = True
    for fdset in sets:
        with contextlib.suppress(Internal):
            await ask("remove-fd", COMMAND_LIMIT, fdset_id=fdset)


def _from_above(name: str) -> tuple[bool, list[int]]:
    """Overlays before layers, the latest overlay and the uppermost layer first."""
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    is_layer = name.startswith("back-")
    return is_layer, numbers if is_layer else [-number for number in numbers] or [0]
