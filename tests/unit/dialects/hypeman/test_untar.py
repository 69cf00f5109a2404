"""Archives of guests, honest and not."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from polyvisor.dialects.hypeman.untar import Archive, Entry
from polyvisor.model.faults import Upstream


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.mtime, info.uid, info.gid = kind, link, 0o640, 1_700_000_000, 5, 6
    return info


async def unpacked(data: bytes, size: int = 7) -> list[tuple[Entry, bytes]]:
    archive = Archive(pieces(data, size))
    found = []
    while (entry := await archive.next()) is not None:
        found.append((entry, b"".join([piece async for piece in archive.content()])))
    return found


@pytest.mark.parametrize("size", [1, 7, 512, 4096])
async def test_members_come_out_as_they_went_in(size: int) -> None:
    long = "d/" + "x" * 150
    data = packed(
        (member("d/", tarfile.DIRTYPE), b""), (member("d/a"), b"a" * 1000), (member(long), b"b" * 512),
        (member("d/l", tarfile.SYMTYPE, "a"), b""), (member("d/empty"), b""),
    )  # fmt: skip
    found = await unpacked(data, size)
    assert [(e.name.rstrip("/"), e.kind, len(content)) for e, content in found] == [
        ("d", "5", 0), ("d/a", "0", 1000), (long, "0", 512), ("d/l", "2", 0), ("d/empty", "0", 0),
    ]  # fmt: skip
    entry = found[1][0]
    assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o640, 5, 6, 1_700_000_000)
    assert found[3][0].link == "a"


async def test_what_is_not_read_is_passed_over() -> None:
    archive = Archive(pieces(packed((member("a"), b"x" * 5000), (member("b"), b"y")), 100))
    assert (await archive.next()) is not None
    entry = await archive.next()
    assert entry is not None and entry.name == "b"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x" * 511, b"x" * 512, packed((member("a"), b"x" * 5000))[:1024],
        packed((member("a" * 200), b""))[:600],
    ],
)  # fmt: skip
async def test_one_that_is_cut_short_or_none_is_told(data: bytes) -> None:
    with pytest.raises(Upstream):
        await unpacked(data)
