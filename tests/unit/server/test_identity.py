"""A data directory and a store that do not belong together are left alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from polyvisor.model.faults import WrongState
from polyvisor.server.bootstrap import FILE, ensure_operator
from polyvisor.server.identity import claim
from polyvisor.store import open_store


async def test_the_first_start_claims_and_the_next_one_agrees(tmp_path: Path) -> None:
    store = await open_store("sqlite://")
    await claim(tmp_path, store)
    await claim(tmp_path, store)
    assert (tmp_path / "host").read_text().strip() == await store.host_id()
    await store.close()


async def test_another_store_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    one, two = await open_store("sqlite://"), await open_store("sqlite://")
    await claim(tmp_path, one)
    (tmp_path / "instances" / "x").mkdir(parents=True)
    with pytest.raises(WrongState):
        await claim(tmp_path, two)
    assert (tmp_path / "instances" / "x").exists()
    await one.close()
    await two.close()


async def test_an_empty_store_beside_somebodys_disks_is_refused(tmp_path: Path) -> None:
    store = await open_store("sqlite://")
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "v.raw").touch()
    with pytest.raises(WrongState) as caught:
        await claim(tmp_path, store)
    assert "volumes/v.raw" in caught.value.public
    await store.close()


async def test_a_lost_bootstrap_file_is_written_anew_for_the_same_project(tmp_path: Path) -> None:
    store = await open_store("sqlite://")
    first = await ensure_operator(store, tmp_path, lambda: datetime.now(UTC))
    (tmp_path / FILE).unlink()
    second = await ensure_operator(store, tmp_path, lambda: datetime.now(UTC))
    assert first["project"] == second["project"]
    assert first["api_key"] != second["api_key"]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    await store.close()
