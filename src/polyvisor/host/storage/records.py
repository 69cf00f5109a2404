"""Who stands on whom, as written down beside each disk.

    instances/<id>/disk.json    which overlay the instance writes to, and the layer below it; absent: the first, on none
    snapshots/<id>/disk.json    the layer that the snapshot holds
    layers/<id>/disk.json       the layer below that layer, or what it stands on; its size; appears with its disk.qcow2

Only these records count: a name in a disk's header is for tools. What they reach is kept, the rest is litter.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.durable import full, read_record, sync, write_record
from polyvisor.host.paths import DISK, Paths
from polyvisor.model.faults import Internal
from polyvisor.model.ids import InstanceId
from polyvisor.ports.hypervisor import DiskFile


@dataclass(frozen=True, slots=True)
class Base:
    """What a chain stands on: an image's disk, or a blank file system. `image`: the instance's, which forks share."""

    path: Path
    format: str
    image: str

    def disk(self) -> DiskFile:
        """It as the lowest of a chain."""
        return DiskFile(self.path, self.format, "", read_only=True)


@dataclass(frozen=True, slots=True)
class Layer:
    """A disk that is never written again. `parent`: the layer below; empty: it stands on `base`."""

    parent: str
    size: int
    base: Base


@dataclass(frozen=True, slots=True)
class Writable:
    """What an instance writes to: its overlay of that generation, above that layer (empty: above the base).

    `pending`: the snapshot for which the layer was made while a machine may still have been writing to it.
    """

    generation: int = 0
    layer: str = ""
    pending: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """All layers with their parents, those named from outside, and those that may still be written to."""

    parents: dict[str, str]
    named: frozenset[str]
    unsealed: frozenset[str]


class Records:
    """Reads and writes them."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def writable(self, id: InstanceId) -> Writable:
        """What an instance writes to."""
        facts = read_record(self._paths.disk_record(id))
        if facts is None:
            return Writable()
        return Writable(int(facts["generation"]), facts["layer"] or "", facts["pending"] or "")

    def write(self, id: InstanceId, disk: Writable) -> None:
        """From now on it writes to that."""
        facts = {"generation": disk.generation, "layer": disk.layer or None, "pending": disk.pending or None}
        write_record(self._paths.disk_record(id), facts)

    def held(self, snapshot: str) -> str:
        """The layer that a snapshot holds; empty: there is no such snapshot."""
        facts = read_record(self._paths.snapshot_record(snapshot))
        return "" if facts is None else str(facts["layer"])

    def hold(self, snapshot: str, layer: str) -> None:
        """The snapshot exists."""
        try:
            self._paths.snapshot(snapshot).mkdir(mode=0o700, exist_ok=True)
            sync(self._paths.snapshots)
        except OSError as error:
            raise full(error) from error
        write_record(self._paths.snapshot_record(snapshot), {"layer": layer})

    def layer(self, id: str) -> Layer:
        """One layer. :raise Internal: it is missing."""
        facts = read_record(self._paths.layer_record(id))
        if facts is None:
            raise Internal(private=f"layer {id} is missing")
        base = facts["base"]
        path = Path(os.path.normpath(self._paths.root / base["path"]))
        return Layer(facts["parent"] or "", int(facts["size"]), Base(path, base["format"], base["image"]))

    def describe(self, layer: Layer, folder: Path) -> None:
        """Write a layer's record into that directory. The base's path is kept relative: a data directory may move."""
        path = os.path.relpath(layer.base.path, self._paths.root)
        base = {"path": path, "format": layer.base.format, "image": layer.base.image}
        write_record(folder / DISK, {"parent": layer.parent or None, "size": layer.size, "base": base})

    def chain(self, id: str) -> list[tuple[str, Layer]]:
        """A layer and all below it, the lowest last."""
        found: list[tuple[str, Layer]] = []
        while id:
            found.append((id, self.layer(id)))
            id = found[-1][1].parent
        return found

    def disk(self, id: str) -> DiskFile:
        """A layer with all that lies below it."""
        chain = self.chain(id)
        below = chain[-1][1].base.disk()
        for name, _ in reversed(chain):
            below = DiskFile(self._paths.layer_disk(name), "qcow2", "", read_only=True, backing=below)
        return below

    def graph(self) -> Graph:
        """Everything that is written down. :raise Internal: part of it cannot be read."""
        disks = [self.writable(InstanceId(file.parent.name)) for file in self._paths.instances.glob(f"*/{DISK}")]
        held = {file.parent.name: self.held(file.parent.name) for file in self._paths.snapshots.glob(f"*/{DISK}")}
        named = frozenset({disk.layer for disk in disks} | set(held.values())) - {""}
        parents: dict[str, str] = {}
        for id in named:
            while id and id not in parents:
                parents[id] = self.layer(id).parent
                id = parents[id]
        return Graph(
            parents, named, frozenset(disk.layer for disk in disks if disk.pending and disk.pending not in held)
        )
