"""Snapshots, forks and reverts as layers: what is above writes, what is below is never written again.

The order of a snapshot is what makes it safe to cut short. The present overlay gets a second name as a layer; an empty
one above it is made; the instance's record names that; only then a running machine is made to write to it; last the
snapshot's record names the layer. Up to the third step nothing has happened but litter. After it, a machine may still
write into the layer, which only its own instance stands on, so nothing is lost: whoever comes next switches it first.
So where a machine stands still for its memory, it does so for the switching alone.

Collecting is mark and sweep over the records. It and everything that names a layer anew exclude each other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from polyvisor.host.durable import full, sync
from polyvisor.host.paths import Paths
from polyvisor.host.storage.files import firmly
from polyvisor.host.storage.overlays import Overlays, join
from polyvisor.host.storage.records import Base, Layer, Records, Writable
from polyvisor.model.faults import Fault, Internal, Invalid, NoCapacity, NotFound
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId, mint
from polyvisor.model.units import Bytes

log = logging.getLogger("polyvisor.host")
DEEPEST = 64  # layers below one another; reading through each costs a little, and a machine holds each open


class Layers:
    """All layers of a host. `hook` is told each point where a crash leaves something else behind."""

    def __init__(self, paths: Paths, records: Records, overlays: Overlays, room: Callable[[int], None]) -> None:
        self.hook: Callable[[str], None] = lambda point: None
        self._paths = paths
        self._records = records
        self._overlays = overlays
        self._need_room = room
        self._lock = asyncio.Lock()
        self._joining = asyncio.Lock()

    async def fork(self, blueprint: Blueprint, base: Base, origin: str) -> None:
        """An instance that has no disk yet stands on that snapshot. :raise NotFound, Invalid: it does not fit."""
        async with self._lock:
            if self._records.writable(blueprint.id) == Writable():
                layer = self._fitting(blueprint, base, origin)
                self._records.write(blueprint.id, Writable(0, layer))

    def _fitting(self, blueprint: Blueprint, base: Base, snapshot: str) -> str:
        """The snapshot's layer, when that instance can have it."""
        id = self._records.held(snapshot)
        if not id:
            raise NotFound("snapshot: its disk is not on this host", field="snapshot")
        layer = self._records.layer(id)
        if layer.base.image != base.image:
            raise Invalid("image: the snapshot is of another image", field="image")
        if blueprint.spec.disk < layer.size:
            raise Invalid(f"disk: the snapshot's disk has {layer.size} bytes; it cannot be made smaller", field="disk")
        return id

    # -- snapshots -----------------------------------------------------------------------------------------------

    async def cut(self, blueprint: Blueprint, base: Base, snapshot: str, *, anew: bool = False) -> None:
        """The present overlay becomes a layer and an empty one takes its place in the record. Once per snapshot, unless
        it is to be `anew` where the snapshot does not exist yet."""
        id = blueprint.id
        async with self._lock:
            now = self._records.writable(id)
            if (snapshot == now.pending and not anew) or self._records.held(snapshot):
                return
            chain = self._records.chain(now.layer)
            if len(chain) >= DEEPEST:
                raise NoCapacity(f"the disk stands on {DEEPEST} snapshots; remove some before another is taken")
            self._need_room(0)
            layer = Layer(now.layer, blueprint.spec.disk, chain[0][1].base if chain else base)
            after = Writable(now.generation + 1, mint(), snapshot)
            try:
                await firmly(self._name, self._paths.disk(id, now.generation), after.layer, layer)
                self.hook("layer made")
                below = self._records.disk(after.layer)
                await self._overlays.make(self._paths.disk(id, after.generation), below, blueprint.spec.disk)
                self.hook("overlay made")
                await firmly(self._records.write, id, after)
            except Fault:
                await firmly(self._unname, id, after.layer)
                raise
            self.hook("recorded")
            self.tidy(id)

    def _name(self, disk: Path, id: str, layer: Layer) -> None:
        """That file is a layer too; a directory with both of its files appears at once."""
        part = self._paths.layers / f"{id}.part"
        try:
            sync(disk)
            part.mkdir(mode=0o700)
            os.link(disk, part / self._paths.layer_disk(id).name)
            self._records.describe(layer, part)
            part.rename(self._paths.layer(id))
            sync(self._paths.layers)
        except OSError as error:
            raise full(error) from error

    def _unname(self, id: InstanceId, layer: str) -> None:
        """The layer was not made after all, unless the record names it."""
        if self._records.writable(id).layer != layer:
            for folder in (self._paths.layers / f"{layer}.part", self._paths.layer(layer)):
                shutil.rmtree(folder, ignore_errors=True)
            self.tidy(id)

    async def seal(self, id: InstanceId, snapshot: str) -> None:
        """Nobody writes to the layer that was cut for the snapshot: it exists."""
        async with self._lock:
            now = self._records.writable(id)
            if now.pending != snapshot:
                return
            if not self._records.held(snapshot):
                await firmly(self._records.hold, snapshot, now.layer)
            self.hook("held")
            await firmly(self._records.write, id, replace(now, pending=""))

    async def revert(self, blueprint: Blueprint, base: Base, snapshot: str) -> None:
        """The instance writes to an empty overlay above the snapshot's layer."""
        id = blueprint.id
        async with self._lock:
            layer = self._fitting(blueprint, base, snapshot)
            self._need_room(0)
            after = Writable(self._records.writable(id).generation + 1, layer)
            disk = self._paths.disk(id, after.generation)
            await self._overlays.make(disk, self._records.disk(layer), blueprint.spec.disk)
            self.hook("overlay made")
            await firmly(self._records.write, id, after)
            self.hook("recorded")
            self.tidy(id)
        await self.collect()

    async def forget(self, snapshot: str) -> None:
        """The snapshot is gone; its layer, when nobody else needs it."""
        async with self._lock:
            self._paths.snapshot_record(snapshot).unlink(missing_ok=True)
            self.hook("let go")
            await asyncio.to_thread(shutil.rmtree, self._paths.snapshot(snapshot), True)
        await self.collect()

    def size(self, snapshot: str) -> Bytes:
        """Bytes allocated by the snapshot's layer. :raise NotFound:"""
        layer = self._records.held(snapshot)
        if not layer:
            raise NotFound("snapshot: its disk is not on this host", field="snapshot")
        return Bytes(self._paths.layer_disk(layer).stat().st_blocks * 512)

    # -- housekeeping --------------------------------------------------------------------------------------------

    async def sweep(self, ids: Collection[InstanceId]) -> None:
        """Those instances have no disk but the one they write to; layers that nothing reaches are gone."""
        async with self._lock:
            for id in ids:
                self.tidy(id)
        await self.collect()

    def tidy(self, id: InstanceId) -> None:
        """No disk is left in the instance's directory but the one that its record names."""
        now = self._paths.disk(id, self._records.writable(id).generation)
        for pattern in ("disk*.qcow2", "disk*.part"):
            for file in self._paths.instance(id).glob(pattern):
                if file != now:
                    file.unlink(missing_ok=True)

    async def collect(self) -> None:
        """Layers that nothing reaches are gone. Where a record cannot be read, nothing is: it may need any of them."""
        async with self._lock:
            try:
                await firmly(self._collect)
            except Internal as fault:
                log.error("layers are not cleared away: %s", fault.private)

    def _collect(self) -> None:
        needed = self._records.graph().parents
        for folder in self._paths.layers.iterdir():
            if folder.name not in needed:
                self.hook("a layer goes")
                shutil.rmtree(folder, ignore_errors=True)

    async def compact(self) -> None:
        """Join each layer that is needed by the one above it alone into that one, whose name stays.

        Chains are as deep as there are snapshots and forks, then, not as there ever were.
        """
        async with self._joining:
            refused: set[str] = set()
            while (pair := await self._pair(refused)) is not None:
                try:
                    await self._join(*pair)
                except (Fault, OSError) as error:
                    log.warning("layers %s and %s are not joined: %s", *pair, getattr(error, "private", "") or error)
                    refused.add(pair[0])

    async def _pair(self, refused: set[str]) -> tuple[str, str] | None:
        """A layer and the one below it that only it needs. One that may still be written to stays as it is."""
        async with self._lock:
            try:
                graph = await asyncio.to_thread(self._records.graph)
            except Internal:
                return None
        above: dict[str, list[str]] = {}
        for id, parent in graph.parents.items():
            above.setdefault(parent, []).append(id)
        for lower, uppers in above.items():
            alone = lower and lower not in graph.named and len(uppers) == 1
            if alone and uppers[0] not in graph.unsealed | refused:
                return uppers[0], lower
        return None

    async def _join(self, upper: str, lower: str) -> None:
        """The lower file takes in the upper one and then its name. Nobody can come to need the lower one meanwhile:
        only who names it could make others do so. Read by either record, before or after, the disk is the same."""
        top, below = self._paths.layer_disk(upper), self._paths.layer_disk(lower)
        if not top.samefile(below):
            self._need_room(top.stat().st_blocks * 512)
            await join(self._records.disk(upper))
            self.hook("joined")
            await asyncio.to_thread(sync, below)
        async with self._lock:
            if not (top.exists() and below.exists()):
                return  # nobody needs them any more
            if not top.samefile(below):
                part = top.with_suffix(".part")
                part.unlink(missing_ok=True)
                os.link(below, part)
                part.replace(top)
                sync(top.parent)
            self.hook("renamed")
            layer = replace(self._records.layer(upper), parent=self._records.layer(lower).parent)
            await firmly(self._records.describe, layer, self._paths.layer(upper))
        await self.collect()
