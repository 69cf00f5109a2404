"""Pools in the settings: sections with names of the operator's."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyvisor.host.hypervisor.fake.host import FakeStorage
from polyvisor.host.paths import Paths
from polyvisor.host.storage import FileStorage
from polyvisor.model.faults import Invalid, Unavailable
from polyvisor.model.host import Disk
from polyvisor.model.units import Bytes
from polyvisor.server.config import Config, load


def settings(folder: Path, text: str) -> Config:
    """Of a file with that in it."""
    file = folder / "polyvisor.toml"
    file.write_text(text)
    return load(file, {})


def test_pools_are_read_from_a_file_and_from_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.setenv("POLYVISOR_POOLS__MAIN__NUMBER", "2")
    config = settings(
        tmp_path, f'[pools.main]\npath = "{tmp_path}/a"\n[pools.other]\npath = "{tmp_path}"\nnumber = 1\n'
    )
    found = [(p.name, p.number, p.path, p.folder.name) for p in config.places("abc")]
    assert found == [("main", 2, tmp_path / "a", "polyvisor-abc"), ("other", 1, tmp_path, "polyvisor-abc")]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('[pools.main]\npath = "/"\n', "pools.main.number"),
        ('[pools.main]\npath = "/"\nnumber = 0\n', "pools.main.number"),
        ('[pools.main]\npath = "/"\nnumber = 1\n[pools.b]\npath = "/"\nnumber = 1\n', "pools.b.number"),
        ('[pools.main]\npath = "/nonesuch"\nnumber = 1\n', "pools.main.path"),
        ('[pools.main]\npath = "tmp"\nnumber = 1\n', "pools.main.path"),
        ('[pools.default]\npath = "/"\nnumber = 1\n', "pools.default"),
        ('[pools."a b"]\npath = "/"\nnumber = 1\n', "pools"),
        ('[pools.main]\npath = "/"\nnumber = 1\nsize = 1\n', "pools.main.size"),
        ('[pools.main]\npath = 1\nnumber = 1\n', "pools.main.path"),
        ("[pools]\nmain = 1\n", "pools.main."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_pool_is_named(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        settings(tmp_path, text)
    assert caught.value.field == field


@pytest.mark.parametrize("kind", [FileStorage, FakeStorage])
async def test_a_medium_is_in_its_pool_and_nothing_else_there_is_touched(
    tmp_path: Path, kind: type[FileStorage | FakeStorage]
) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/of-somebody.raw").write_text("else")
    config = settings(tmp_path, f'[pools.main]\npath = "{tmp_path}/pool"\nnumber = 1\n')
    paths = Paths(tmp_path / "data", config.places("abc"))
    paths.make()
    storage = kind(paths)
    kept, lost = Disk("kept", "kept", Bytes(1024), pool="main"), Disk("lost", "lost", Bytes(1024), pool="main")
    await storage.create_blank(kept)
    await storage.create_blank(lost)
    (tmp_path / "pool/polyvisor-abc/cut.part").touch()
    await storage.sweep((), {"kept"}, ())
    here = tmp_path / "pool"
    assert sorted(str(file.relative_to(here)) for file in here.rglob("*.*")) == [
        "of-somebody.raw", "polyvisor-abc/kept.raw",
    ]  # fmt: skip
    assert [(pool.name, pool.number) for pool in storage.pools()] == [("default", 0), ("main", 1)]
    assert storage.volume(kept).path == here / "polyvisor-abc/kept.raw"
    with pytest.raises(Unavailable):
        storage.volume(Disk("v", "v", Bytes(0), pool="gone"))
