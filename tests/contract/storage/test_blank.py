"""A volume that nothing was ever written to gets a file system when it is to be mounted; any other stays as it is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from polyvisor.host.paths import Paths
from polyvisor.host.storage import FileStorage
from polyvisor.host.volumes import LocalVolumes
from polyvisor.model.host import Disk
from polyvisor.model.units import MIB, Bytes

MAGIC = 1024 + 56


@pytest.mark.parametrize("how", ["mounted", "bare", "read", "written", "small"])
async def test_a_blank_volume(tmp_path: Path, how: str) -> None:
    paths = Paths(tmp_path, ())
    paths.make()
    storage = FileStorage(paths)
    disk = Disk("a" * 24, "a" * 20, Bytes(MIB if how == "small" else 64 * MIB))
    await storage.create_blank(disk)
    file = paths.volume(disk.volume)
    if how == "written":
        with file.open("r+b") as opened:
            os.pwrite(opened.fileno(), b"mine", 8 * MIB)
    plug = replace(disk, path="" if how == "bare" else "/x", read_only=how == "read", size=Bytes(0))
    volumes = LocalVolumes(storage, None, {})  # type: ignore[arg-type]  # no image is looked at
    async with volumes.starting([plug]):
        data = file.read_bytes()
    assert (data[MAGIC : MAGIC + 2] == b"\x53\xef") is (how == "mounted")
    assert len(data) == disk.size
    if how == "mounted":
        before = file.stat()
        await volumes.format_blank([plug])
        assert file.stat() == before
