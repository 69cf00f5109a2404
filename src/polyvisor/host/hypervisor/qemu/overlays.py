"""The overlays that disks of a running machine are switched to: each snapshot puts one more on top."""

from __future__ import annotations

import contextlib
import logging
import os

from polyvisor.host.hypervisor.qemu.argv import backings, node_of, overlay_options
from polyvisor.host.hypervisor.qemu.chain import LONGER, Ask, Give, renew
from polyvisor.host.hypervisor.qemu.qmp import COMMAND_LIMIT
from polyvisor.model.faults import Fault, Internal, NoCapacity
from polyvisor.ports.hypervisor import DiskFile

log = logging.getLogger("polyvisor.host")
DEEPEST = 160  # disks below one another in a running machine: a read may go through all of them
_FDSETS = 100_000  # fd sets of overlays that came later: generation above this


async def forget_node(ask: Ask, node: str, fdset: int) -> None:
    """Close a disk and its descriptor, whatever there is of them."""
    for name in (node, f"{node}-file"):  # one there at launch has its file as a node
        with contextlib.suppress(Internal):
            await ask("blockdev-del", COMMAND_LIMIT, node_name=name)
    with contextlib.suppress(Internal):
        await ask("remove-fd", COMMAND_LIMIT, fdset_id=fdset)


class Overlays:
    """Of one machine, whose owner does one thing at a time. `adopted`: it had other owners before."""

    def __init__(self, ask: Ask, give: Give, name: str, *, adopted: bool) -> None:
        self._ask = ask
        self._give = give
        self._name = name
        self._adopted = adopted
        self._opened: tuple[str, str] | None = None  # a node that is there to be switched to, and the one written to
        self._written_to: dict[str, tuple[str, int]] = {}  # that one and how many lie below it, as of a moment ago
        self._attempts: set[str] = set()  # overlays that we have opened, or begun to

    async def switch(self, disk: DiskFile, *, ahead: bool) -> None:
        """The present node becomes the backing of the new one, which takes the lock of a writer from it. `ahead`: open
        it, and no more.

        :raise NoCapacity: too many lie upon one another.
        """
        node, fdset = node_of(disk), _FDSETS + disk.generation
        opened, self._opened = self._opened, None
        known = self._written_to.pop(disk.serial, None)
        if opened is None or opened[0] != node:
            active, depth = known or await self.active(disk.serial)
            if active == node:
                await self._shorten(disk, depth)
                return
            if depth >= DEEPEST:
                raise NoCapacity(f"{depth} disks lie upon one another in the machine; it must be started anew")
            await self._open(disk, fdset)
            opened = (node, active)
        if ahead:
            self._opened = opened
            return
        try:
            await self._ask("blockdev-snapshot", COMMAND_LIMIT, node=opened[1], overlay=node)
        except Internal:
            await forget_node(self._ask, node, fdset)
            raise

    async def _open(self, disk: DiskFile, fdset: int) -> None:
        """The overlay, beside what the machine writes to."""
        node = node_of(disk)
        if self._adopted or node in self._attempts:
            await forget_node(self._ask, node, fdset)  # what an attempt cut short may have left
        self._attempts.add(node)
        await self._give(disk.path, os.O_RDWR, fdset)
        try:
            for options in overlay_options(disk, f"/dev/fdset/{fdset}"):
                await self._ask("blockdev-add", COMMAND_LIMIT, **options)
        except Internal:
            await forget_node(self._ask, node, fdset)
            raise

    async def _shorten(self, disk: DiskFile, depth: int) -> None:
        """What was joined on the disk meanwhile is joined in the machine; it is as good without, for a while."""
        if depth - len(backings(disk)) < LONGER:
            self._written_to[disk.serial] = node_of(disk), depth
        else:
            try:
                await renew(self._ask, self._give, disk)
            except (Fault, OSError) as error:
                log.warning("%s: its disks are not opened anew: %r", self._name, error)

    async def active(self, serial: str) -> tuple[str, int]:
        """The node that a disk there at launch is written to now, and how many lie below it."""
        for block in await self._ask("query-block", COMMAND_LIMIT):
            if f"/fixed-{serial}/" in block.get("qdev", ""):
                return block["inserted"]["node-name"], block["inserted"]["backing_file_depth"]
        raise Internal(private=f"the machine has no disk {serial}")
