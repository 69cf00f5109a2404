"""Small real disks: an image of known bytes, instances above it, and what a machine would read and write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from polyvisor.host.paths import Paths
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import Digest, InstanceId, ProjectId, mint
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.hypervisor import DiskFile

CLUSTER = 64 * 1024
DIGEST = Digest("sha256:0")
Content = dict[int, int]  # cluster to the byte that fills it, where that is not 0
IMAGE: Content = {0: 0x11, 1: 0x12}


class Killed(Exception):
    """The manager ends here."""


def tool(*words: object) -> str:
    """Run one of QEMU's tools."""
    done = subprocess.run([str(word) for word in words], check=True, timeout=60, capture_output=True, text=True)
    return done.stdout


def make_image(paths: Paths) -> Path:
    """An image of 1 MiB."""
    folder = paths.images / "image"
    folder.mkdir(parents=True)
    image = folder / "disk.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", image, str(MIB))
    for cluster, byte in IMAGE.items():
        put(image, cluster, byte)
    return image


def blueprint(size: int = MIB, image: Digest = DIGEST, shape: Shape = Shape.FULL) -> Blueprint:
    """A new instance with a disk of that size."""
    firmware = Firmware.BIOS if shape is Shape.FULL else Firmware.NONE
    spec = Spec(image, "i", shape, firmware, 1, Bytes(64 * MIB), Bytes(size))
    return Blueprint(InstanceId(mint()), 1, ProjectId("p"), "n", spec, None)


def put(disk: Path, cluster: int, byte: int) -> None:
    """Fill a cluster, as a guest would."""
    how = f"write -P {byte}" if byte else "write -z"
    tool("qemu-io", "-f", "qcow2", "-c", f"{how} {cluster * CLUSTER} {CLUSTER}", disk)


def options(disk: DiskFile) -> dict[str, Any]:
    """A disk as a machine is told of it."""
    below = {"backing": options(disk.backing) if disk.backing else None} if disk.format == "qcow2" else {}
    file = {"driver": "file", "filename": str(disk.path), "locking": "off"}
    return {"driver": disk.format, "file": file, "read-only": True, **below}


def content(disk: DiskFile | Path, scratch: Path) -> Content:
    """What is on a disk: as a machine is told of it, or as its header says."""
    out = scratch / "out.raw"
    source = [f"json:{json.dumps(options(disk))}"] if isinstance(disk, DiskFile) else ["-f", "qcow2", "-U", disk]
    tool("qemu-img", "convert", "-O", "raw", *source, out)
    data = out.read_bytes()
    found = {}
    for cluster in range(len(data) // CLUSTER):
        piece = data[cluster * CLUSTER : (cluster + 1) * CLUSTER]
        assert piece == piece[:1] * CLUSTER
        if piece[0]:
            found[cluster] = piece[0]
    return found


def chain(disk: Path) -> list[Path]:
    """All files that the headers name, the uppermost first."""
    words = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", "-f", "qcow2", disk]
    return [Path(os.path.normpath(item["filename"])) for item in json.loads(tool(*words))]


class Machine:
    """A running machine: it keeps what it writes to open, under whatever name, until it is switched."""

    def __init__(self, paths: Paths, id: InstanceId, disk: DiskFile) -> None:
        self.open = paths.root / "machines" / id / "open.qcow2"  # as deep as an instance's, so the header holds
        self.open.parent.mkdir(parents=True)
        self.generation = disk.generation
        os.link(disk.path, self.open)
        self.switched = 0

    async def switch(self, disk: DiskFile, *, ahead: bool = False) -> None:
        """As LiveVm's."""
        if not ahead and disk.generation != self.generation:
            assert disk.generation == self.generation + 1
            assert disk.backing is not None and disk.backing.path.samefile(self.open)
            self.open.unlink()
            os.link(disk.path, self.open)
            self.generation = disk.generation
            self.switched += 1

    def end(self) -> None:
        """It is gone."""
        shutil.rmtree(self.open.parent)


class Killer:
    """A hook that ends the manager at the point of that number; 0: never."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.points: list[str] = []

    def __call__(self, point: str) -> None:
        """See there."""
        self.points.append(point)
        if len(self.points) == self._at:
            raise Killed(point)
