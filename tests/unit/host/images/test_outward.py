"""Images as archives: what goes out comes in as the same, and is the same bytes each time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from polyvisor.host.images.local import LocalImages
from polyvisor.model.faults import NotFound
from polyvisor.model.ids import Digest


def quietly(text: str, fraction: float | None) -> None:
    """Nobody listens."""


@pytest.mark.slow
async def test_an_archive_is_an_image(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "one")
    made = await images.build("busybox", quietly)
    sums = []
    for _ in range(2):
        async with images.archived(made.id) as archive:
            sums.append(hashlib.sha256(archive.read_bytes()).hexdigest())
            again = await LocalImages(tmp_path / f"other{len(sums)}").import_archive(archive, "again", quietly)
        assert not archive.exists()
    assert sums[0] == sums[1]
    assert again.config == made.config and again.virtual_size == made.virtual_size
    with pytest.raises(NotFound):
        async with images.archived(Digest("sha256:" + "0" * 64)):
            pass
