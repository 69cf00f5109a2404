"""Files of a volume that no machine has, by the tools that a server uses."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from polyvisor.host.hypervisor.fake.files import FakeFiles
from polyvisor.host.storage.blanks import format_ext4
from polyvisor.host.storage.ext4 import Ext4
from polyvisor.model.faults import Invalid, NoCapacity, NotFound
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.volumes import VolumeFiles

pytestmark = pytest.mark.asyncio
SIZE = Bytes(32 * MIB)


@pytest.fixture(params=["real", "fake"])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> VolumeFiles:
    """Those of an empty volume."""
    if request.param == "fake":
        return FakeFiles(SIZE)
    await format_ext4(tmp_path / "volume.raw", SIZE)
    return Ext4(tmp_path / "volume.raw")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of ours."""
    path = tmp_path / "source"
    path.write_bytes(b"hello")
    return path


async def test_there_and_back(files: VolumeFiles, source: Path) -> None:
    assert await files.list("", deep=True, most=100) == []
    empty = await files.used()
    data = os.urandom(5_000_001)
    source.write_bytes(data)
    for path in ("a", "/deep/er/b c", 'quotes "in" it', "/deep/er/ü; rm a", "deep//./x"):
        await files.write(path, source)
    found = await files.list("", deep=True, most=100)
    assert {(one.path, one.folder) for one in found} == {
        ("/a", False), ("/deep", True), ("/deep/er", True), ("/deep/er/b c", False), ('/quotes "in" it', False),
        ("/deep/er/ü; rm a", False), ("/deep/x", False),
    }  # fmt: skip
    assert {one.size for one in found if not one.folder} == {len(data)}
    assert {one.path for one in await files.list("/deep", deep=False, most=100)} == {"/deep/er", "/deep/x"}
    assert len(await files.list("", deep=True, most=3)) == 3
    for path in ("a", "deep/er/b c", '/quotes "in" it', "/deep/er/ü; rm a"):
        assert await files.read(path, 10_000_000) == data
    assert 5 * len(data) <= await files.used() - empty < 5 * len(data) + MIB


async def test_one_in_the_place_of_another(files: VolumeFiles, source: Path) -> None:
    await files.write("a", source)
    source.write_bytes(b"")
    await files.write("a", source)
    assert await files.read("a", 100) == b""
    assert [one.size for one in await files.list("", deep=True, most=10)] == [0]


async def test_it_is_removed(files: VolumeFiles, source: Path) -> None:
    await files.write("d/a", source)
    with pytest.raises(Invalid, match="not empty"):
        await files.remove("d")
    await files.remove("d/a")
    with pytest.raises(NotFound):
        await files.remove("d/a")
    with pytest.raises(NotFound):
        await files.read("d/a", 10)
    with pytest.raises(NotFound):
        await files.list("nowhere", deep=True, most=10)


async def test_what_does_not_fit_leaves_what_was(files: VolumeFiles, source: Path) -> None:
    await files.write("kept", source)
    used = await files.used()
    with source.open("r+b") as file:
        for _ in range(36):
            file.write(os.urandom(MIB))
    for path in ("kept", "other"):
        with pytest.raises(NoCapacity):
            await files.write(path, source)
    assert await files.read("kept", 10) == b"hello"
    assert [one.path for one in await files.list("", deep=True, most=10)] == ["/kept"]
    assert await files.used() == used


@pytest.mark.parametrize("path", ["../a", "a/../../b", "a\nb", "a\0b", "x" * 256, ""])
async def test_what_is_no_place(files: VolumeFiles, source: Path, path: str) -> None:
    if path or isinstance(files, Ext4):
        with pytest.raises(Invalid):
            await files.write(path, source)
    with pytest.raises((Invalid, NotFound)):
        await files.read(path, 10)


async def test_a_file_is_no_directory(files: VolumeFiles, source: Path) -> None:
    await files.write("a", source)
    await files.write("d/b", source)
    with pytest.raises(Invalid):
        await files.write("d", source)
    with pytest.raises((NotFound, Invalid)):
        await files.read("d", 10)
    with pytest.raises(Invalid):
        await files.read("a", 4)


async def test_links_lead_nowhere(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("..")
    await format_ext4(tmp_path / "volume.raw", SIZE, folder)
    files = Ext4(tmp_path / "volume.raw")
    with pytest.raises(NotFound):
        await files.read("out", 10**6)
    with pytest.raises((Invalid, NotFound)):
        await files.write("up/x", source)
    assert (tmp_path / "volume.raw").stat().st_uid == os.geteuid()


@pytest.mark.parametrize("damage", ["zeros", "noise", "short"])
async def test_one_that_is_damaged(tmp_path: Path, source: Path, damage: str) -> None:
    path = tmp_path / "volume.raw"
    await format_ext4(path, SIZE)
    if damage == "short":
        os.truncate(path, 4096)
    else:
        with path.open("r+b") as file:
            file.write(bytes(SIZE) if damage == "zeros" else os.urandom(SIZE))
    files = Ext4(path)
    for work in (files.list("", deep=True, most=10), files.read("a", 10), files.write("a", source), files.used()):
        with pytest.raises(Invalid, match="damaged"):
            await work


async def test_a_journal_that_was_left_is_played_first(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "volume.raw"
    await format_ext4(path, SIZE)
    await asyncio.to_thread(
        subprocess.run, ["debugfs", "-w", "-R", "feature needs_recovery", str(path)], check=True, capture_output=True
    )
    files = Ext4(path)
    await files.write("a", source)
    assert await files.read("a", 10) == b"hello"
