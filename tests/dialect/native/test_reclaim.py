"""Reclaim over HTTP."""

from __future__ import annotations

import httpx
import pytest

from dialect.served import Served

pytestmark = pytest.mark.asyncio(loop_scope="session")
URL = "/api/v1/hosts/reclaim"
MIB = 2**20


async def test_memory_is_lent_shown_and_given_back(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(memory="128M")
    dry = await http.post(URL, json={"bytes": "1T", "dry_run": True})
    assert (dry.status_code, dry.json()["applied"], dry.json()["hold_until"]) == (200, 0, None), dry.text
    assert await served.vm(vm["id"]).memory() == 128 * MIB
    try:
        done = (await http.post(URL, json={"bytes": 2**40, "hold": "10m", "reason": "a test"})).json()
        assert (done["requested"], done["planned"], done["host_pressure"]) == (2**40, done["applied"], "healthy")
        assert done["hold_until"] is not None
        assert done["host_available"] > 0
        mine = next(action for action in done["actions"] if action["instance"] == vm["id"])
        assert mine == {
            "instance": vm["id"], "name": vm["name"], "assigned": 128 * MIB, "floor": 64 * MIB,
            "previous": 128 * MIB, "planned": 64 * MIB, "target": 64 * MIB, "applied": 64 * MIB, "status": "applied",
            "error": None,
        }  # fmt: skip
        assert await served.vm(vm["id"]).memory() == 64 * MIB
    finally:
        ended = await http.post(URL, json={"bytes": 0})
    assert (ended.status_code, ended.json()["applied"], ended.json()["hold_until"]) == (200, 0, None)
    assert await served.vm(vm["id"]).memory() == 128 * MIB


async def test_what_cannot_be_reclaimed_is_refused(served: Served, http: httpx.AsyncClient) -> None:
    for body, field in (
        ({}, "bytes"), ({"bytes": -1}, "bytes"), ({"bytes": "much"}, "bytes"), ({"bytes": True}, "bytes"),
        ({"bytes": 1, "hold": "2h"}, "hold"), ({"bytes": 1, "hold": 0}, "hold"), ({"bytes": 1, "hold": "x"}, "hold"),
        ({"bytes": 1, "reason": "x" * 257}, "reason"), ({"bytes": 1, "dry_run": "yes"}, "dry_run"),
        ({"bytes": 1, "more": 1}, "more"),
    ):  # fmt: skip
        wrong = await http.post(URL, json=body)
        assert (wrong.status_code, wrong.json()["field"]) == (422, field), wrong.text
    key = await served.stranger()
    refused = await http.post(URL, json={"bytes": 0}, headers={"Authorization": f"Bearer {key}"})
    assert (refused.status_code, refused.json()["kind"]) == (403, "Forbidden")
