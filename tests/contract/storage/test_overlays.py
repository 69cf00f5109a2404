"""Disks of instances: whether the tool made one or it was copied from an earlier one, it is the same disk."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from polyvisor.host.paths import Paths
from polyvisor.host.storage import FileStorage
from polyvisor.model.faults import NoCapacity
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import Digest, InstanceId, ProjectId, mint
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import MIB, Bytes


def blueprint(size: int) -> Blueprint:
    """A new micro instance with a disk of that size."""
    spec = Spec(Digest("sha256:0"), "i", Shape.MICRO, Firmware.NONE, 1, Bytes(64 * MIB), Bytes(size))
    return Blueprint(InstanceId(mint()), 1, ProjectId("p"), "n", spec, None)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A data directory."""
    paths = Paths(tmp_path)
    paths.make()
    return paths


def info(disk: Path) -> dict[str, Any]:
    """What QEMU's own tool says of it; it must be without a fault."""
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", str(disk)], check=True, timeout=30)
    said = subprocess.run(
        ["qemu-img", "info", "--output=json", "-f", "qcow2", str(disk)], check=True, timeout=30, capture_output=True
    )
    found: dict[str, Any] = json.loads(said.stdout)
    return found


async def test_a_copied_overlay_is_the_one_that_would_have_been_made(paths: Paths) -> None:
    storage = FileStorage(paths)
    first, second, other = blueprint(64 * MIB), blueprint(64 * MIB), blueprint(96 * MIB)
    for one in (first, second, other):
        await storage.make(one, Path("/nowhere"))
    made, copied = paths.disk(first.id), paths.disk(second.id)
    assert made.read_bytes() == copied.read_bytes()
    facts = info(copied)
    assert (facts["virtual-size"], facts["backing-filename-format"]) == (64 * MIB, "raw")
    assert Path(facts["full-backing-filename"]).resolve() == paths.blanks / f"ext4-{64 * MIB}.raw"
    assert info(paths.disk(other.id))["virtual-size"] == 96 * MIB


async def test_the_overlay_of_each_snapshot_names_the_layer_below_it(paths: Paths) -> None:
    storage, one = FileStorage(paths), blueprint(64 * MIB)
    await storage.make(one, Path("/nowhere"))
    below = []
    for generation in (1, 2, 3):
        await storage.snapshot(one, Path("/nowhere"), mint(), None)
        facts = info(paths.disk(one.id, generation))
        assert (facts["virtual-size"], facts["backing-filename-format"]) == (64 * MIB, "qcow2")
        below.append(Path(facts["full-backing-filename"]).resolve())
    assert set(below) == {paths.layer_disk(folder.name).resolve() for folder in paths.layers.iterdir()}


async def test_what_a_guest_wrote_is_not_copied(paths: Paths) -> None:
    storage = FileStorage(paths)
    first, second = blueprint(64 * MIB), blueprint(64 * MIB)
    await storage.make(first, Path("/nowhere"))
    untouched = paths.disk(first.id).read_bytes()
    paths.disk(first.id).write_bytes(b"written by a guest")
    await storage.make(second, Path("/nowhere"))
    assert paths.disk(second.id).read_bytes() == untouched


async def test_a_disk_that_cannot_be_written_leaves_nothing(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(paths)
    await storage.make(blueprint(64 * MIB), Path("/nowhere"))
    second = blueprint(64 * MIB)

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(NoCapacity):
        await storage.make(second, Path("/nowhere"))
    assert list(paths.instance(second.id).iterdir()) == []
