"""The warm pool over HTTP: creates take over copies that wait; what a create has taken is nobody else's to remove."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from dialect.served import Served, serving
from polyvisor.model.instance import Instance

SIZE = {"memory": "96M", "disk": "64M"}
POOL = 2


async def spares(served: Served, count: int) -> Sequence[Instance]:
    """Those of the pool, once so many are ready."""
    async with asyncio.timeout(20):
        while True:
            async with served.parts.store.read() as unit:
                found = await unit.instances.spares()
            if len(found) == count and all(spare.observed.ready and spare.operation is None for spare in found):
                return found
            await asyncio.sleep(0.02)


async def test_a_template_takes_the_copies_that_wait_with_it_and_no_others(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", {"templates.pool": str(POOL)}) as served:
        made = await served.http.post("/api/v1/templates", json={"image": "busybox", **SIZE})
        assert made.status_code == 201, made.text
        waiting = await spares(served, POOL)
        for spare in waiting:  # nobody's yet
            assert (await served.http.get(f"/api/v1/instances/{spare.id}")).status_code == 404
            assert (await served.http.get(f"/api/v1/instances/{spare.id}/stat?path=/")).status_code == 404
        told = (await served.http.get("/api/v1/operations")).json()["items"]
        assert not {one["instance"] for one in told} & {spare.id for spare in waiting}
        taken = await served.make(**SIZE)
        assert taken["id"] in {spare.id for spare in waiting}
        await spares(served, POOL)
        gone = await served.http.delete(f"/api/v1/templates/{made.json()['id']}")
        assert gone.status_code == 204, gone.text
        assert await spares(served, 0) == []
        still = await served.http.get(f"/api/v1/instances/{taken['id']}")
        assert still.json()["state"] == "running"


async def test_a_copy_that_was_just_taken_over_is_not_removed_as_one_that_waits(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", {"templates.pool": str(POOL)}) as served:
        made = await served.http.post("/api/v1/templates", json={"image": "busybox", **SIZE})
        waiting = await spares(served, POOL)
        taken = await served.make(**SIZE)
        for spare in waiting:  # as a keeper does that looked at them before
            await served.parts.engine.power.delete_spare(spare.id)
        still = await served.http.get(f"/api/v1/instances/{taken['id']}")
        assert (still.json()["state"], still.json()["ready"]) == ("running", True)
        assert (await served.http.delete(f"/api/v1/templates/{made.json()['id']}")).status_code == 204
