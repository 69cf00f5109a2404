"""Archives for volumes: what is in them is unpacked as it is, and nothing leads out of the folder."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from polyvisor.host.storage.archives import unpack
from polyvisor.model.faults import Invalid

MIB = 1024 * 1024
Member = tuple[str, bytes, bytes, str]


def packed(tmp_path: Path, *members: Member, mode: Any = "w:gz") -> Path:
    """An archive of (name, type, content, link)."""
    path = tmp_path / "archive"
    with tarfile.open(path, mode) as archive:
        for name, kind, data, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode, info.mtime = kind, link, len(data), 0o750, 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
    return path


def folder(tmp_path: Path) -> Path:
    made = tmp_path / "here"
    made.mkdir()
    return made


def file(name: str, data: bytes = b"x") -> Member:
    return name, tarfile.REGTYPE, data, ""


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_it_is_unpacked_as_it_is(tmp_path: Path, mode: str) -> None:
    archive = packed(
        tmp_path, ("d", tarfile.DIRTYPE, b"", ""), file("d/a", b"first"), file("d/a", b"second"), file("/deep/er/b"),
        ("d/l", tarfile.SYMTYPE, b"", "/etc/passwd"), ("d/h", tarfile.LNKTYPE, b"", "d/a"),
        ("./", tarfile.DIRTYPE, b"", ""), mode=mode,
    )  # fmt: skip
    here = folder(tmp_path)
    unpack(archive, here, MIB)
    assert (here / "d/a").read_bytes() == (here / "d/h").read_bytes() == b"second"
    assert (here / "deep/er/b").read_bytes() == b"x"
    assert (here / "d/l").readlink() == Path("/etc/passwd")
    assert (here / "d").stat().st_mode & 0o7777 == 0o750
    assert (here / "d/a").stat().st_mtime == 1_700_000_000


@pytest.mark.parametrize(
    "members",
    [
        [file("../out")], [file("d/../../out")], [file("d/..")], [("l", tarfile.SYMTYPE, b"", ".."), file("l/out")],
        [("l", tarfile.SYMTYPE, b"", "/proc"), file("l/out")], [("l", tarfile.LNKTYPE, b"", "../archive")],
        [("l", tarfile.LNKTYPE, b"", "/etc/passwd")], [file("a"), file("a/b")],
        [("l", tarfile.SYMTYPE, b"", "/etc/passwd"), ("h", tarfile.LNKTYPE, b"", "l")],
        [("dev", tarfile.CHRTYPE, b"", "")], [("pipe", tarfile.FIFOTYPE, b"", "")],
        [("d", tarfile.DIRTYPE, b"", ""), file("d")], [file("x" * 5000)],
    ],
    ids=str,
)  # fmt: skip
def test_what_leads_out_or_is_no_file_is_refused(tmp_path: Path, members: list[Member]) -> None:
    here = folder(tmp_path)
    with pytest.raises(Invalid) as refused:
        unpack(packed(tmp_path, *members), here, MIB)
    assert refused.value.field == "archive"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "here"]


def test_a_symlink_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    here = folder(tmp_path)
    unpack(packed(tmp_path, ("l", tarfile.SYMTYPE, b"", str(outside)), file("l", b"new")), here, MIB)
    assert outside.read_bytes() == b"mine"
    assert not (here / "l").is_symlink() and (here / "l").read_bytes() == b"new"


def test_there_is_a_limit_to_what_comes_out(tmp_path: Path) -> None:
    archive = packed(tmp_path, file("a", bytes(MIB)), file("b", bytes(MIB)))
    assert archive.stat().st_size < 10_000
    with pytest.raises(Invalid, match="fits"):
        unpack(archive, folder(tmp_path), MIB + 1)


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x1f\x8b\x08\x00broken", os.urandom(5000)])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "archive"
    path.write_bytes(data)
    with pytest.raises(Invalid, match="archive"):
        unpack(path, folder(tmp_path), MIB)


def test_one_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path, file("a", os.urandom(100_000)))
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(Invalid):
        unpack(archive, folder(tmp_path), MIB)
