"""Packed pages: the same data at the same places, and nothing of zeros taken for holes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polyvisor.host.memory.packed import pack, packed_name, unpack
from polyvisor.host.sparse import data_runs
from polyvisor.model.compression import Algorithm, Compression
from polyvisor.model.faults import Internal, NoCapacity

SIZE = 64 * 2**20
PAGE = 4096


def sparse(path: Path, pages: dict[int, bytes]) -> Path:
    """A file with data at some pages only."""
    with path.open("wb") as file:
        os.truncate(file.fileno(), SIZE)
        for page, data in pages.items():
            os.pwrite(file.fileno(), data, page * PAGE)
    return path


def runs(path: Path) -> list[tuple[int, int]]:
    """Where its data lies."""
    with path.open("rb") as file:
        return list(data_runs(file.fileno()))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Random, repeating and zero pages between holes, and a long run."""
    pages = {0: os.urandom(PAGE), 7: bytes(PAGE), 100: b"abc" * PAGE, 5000: os.urandom(3 * 2**20)}
    return sparse(tmp_path / "pages.ram", pages | {SIZE // PAGE - 1: b"z" * PAGE})


@pytest.mark.parametrize("text", [(Algorithm.ZSTD, 1), (Algorithm.ZSTD, 19), (Algorithm.LZ4, 0), (Algorithm.LZ4, 9)])
async def test_it_comes_back_the_same_with_its_holes(plain: Path, tmp_path: Path, text: tuple[Algorithm, int]) -> None:
    part, count = await pack(plain, Compression(*text))
    part.rename(packed := packed_name(plain, text[0]))
    assert count == sum(end - start for start, end in runs(plain))
    again = tmp_path / "again.ram"
    with again.open("w+b") as file:
        unpack(packed, file.fileno())
    assert again.read_bytes() == plain.read_bytes()
    assert runs(again) == runs(plain)  # the page of zeros is data still
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["again.ram", "pages.ram", packed.name])


async def test_it_is_laid_over_what_is_there(plain: Path, tmp_path: Path) -> None:
    part, _ = await pack(plain, Compression(Algorithm.LZ4))
    part.rename(packed := packed_name(plain, Algorithm.LZ4))
    under = sparse(tmp_path / "under.ram", {7: b"x" * PAGE, 8: b"y" * PAGE})
    with under.open("r+b") as file:
        unpack(packed, file.fileno())
    found = under.read_bytes()
    assert found[7 * PAGE : 9 * PAGE] == bytes(PAGE) + b"y" * PAGE


async def test_what_is_damaged_is_refused(plain: Path, tmp_path: Path) -> None:
    part, _ = await pack(plain, Compression(Algorithm.ZSTD, 1))
    whole = part.read_bytes()
    flipped = whole[:-2000] + bytes(1000) + whole[-1000:]
    found = {"short": whole[: len(whole) // 2], "empty": b"", "other": b"no such thing", "flipped": flipped}
    for name, data in found.items():
        (packed := tmp_path / f"{name}.zst").write_bytes(data)
        with (tmp_path / "out").open("w+b") as file, pytest.raises(Internal):
            unpack(packed, file.fileno())


async def test_without_room_nothing_is_begun(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(plain.parent)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real[:4], 10, *real[5:])))
    with pytest.raises(NoCapacity):
        await pack(plain, Compression(Algorithm.ZSTD, 1))
    assert [path.name for path in plain.parent.iterdir()] == ["pages.ram"]
