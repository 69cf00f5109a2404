"""Limits of speed over HTTP: kept, shown, handed on to forks, and refused where nothing would keep to them."""

from __future__ import annotations

import httpx
import pytest

from dialect.served import Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_disk_limit_is_kept_and_goes_on_to_forks(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(disk_rate="10M")
    assert (vm["disk_rate"], vm["download_rate"], vm["upload_rate"]) == (10 << 20, 0, 0)
    path = f"/api/v1/instances/{vm['id']}"
    snapshot = (await http.post(f"{path}/snapshots", json={}, params={"wait": "launched"})).json()
    for asked, rate in (({}, 10 << 20), ({"disk_rate": "5M"}, 5 << 20), ({"disk_rate": 0}, 0)):
        fork = await http.post("/api/v1/instances", json={"snapshot": snapshot["id"], **asked})
        assert fork.status_code == 201, fork.text
        assert fork.json()["disk_rate"] == rate


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"disk_rate": 1}, "Invalid", "disk_rate"),
        ({"disk_rate": "x"}, "Invalid", "disk_rate"),
        ({"disk_rate": -5}, "Invalid", "disk_rate"),
        ({"download_rate": "1M", "network": False}, "Invalid", "download_rate"),
        ({"download_rate": "1M"}, "Unsupported", "download_rate"),
        ({"upload_rate": "1M"}, "Unsupported", "upload_rate"),
    ],
    ids=str,
)
async def test_what_nothing_keeps_to_is_refused(
    http: httpx.AsyncClient, fields: dict[str, object], kind: str, field: str
) -> None:
    answer = await http.post("/api/v1/instances", json={"image": "busybox", **fields})
    assert answer.status_code >= 400, answer.text
    assert (answer.json()["kind"], answer.json()["field"]) == (kind, field)
