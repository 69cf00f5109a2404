"""Power through the VergeOS endpoints, as its clients see it: how long until what was asked is what is told."""

from __future__ import annotations

import asyncio
import secrets
import time

import httpx

from bench.table import Bound, Row
from serving import Server

ROWS = ("vergeos: poweron → running", "vergeos: kill → stopped")
ON, OFF = Bound("p99", 3000.0), Bound("p99", 2000.0)
LIST = Bound("p99", 250.0)
FIELDS = (
    "$key,name,description,enabled,cpu_cores,ram,os_family,guest_agent,uefi,secure_boot,machine_type,created,modified,"
    "is_snapshot,machine,machine#status#node as node_key,machine#cluster as cluster_key,machine#ha_group as ha_group,"
    "cloudinit_datasource,machine#status#running as running,machine#status#status as status,"
    "machine#status#node#name as node_name,machine#cluster#name as cluster_name"
)
"""What the SDK asks of a list of VMs."""
_POLL = 0.01


async def verge(server: Server, runs: int) -> list[Row]:
    """One VM, on and off in turn; beside it, how long the server has the same of it by our own API's word."""
    headers = {"Authorization": f"Bearer {server.facts['api_key']}"}
    on, off, plain = [], [], []
    async with httpx.AsyncClient(base_url=server.facts["url"], headers=headers, trust_env=False, timeout=60) as http:
        body = {"name": "b" + secrets.token_hex(5), "ram": 512}
        made = (await http.post("/api/v4/vms", json=body)).json()
        machine = f"/api/v4/machine_status/{made['response']['machine']}"

        async def act(action: str, word: str) -> float:
            begun = time.monotonic()
            answer = await http.post("/api/v4/vm_actions", json={"vm": made["$key"], "action": action})
            assert answer.status_code == 201, answer.text
            while (await http.get(machine, params={"fields": "status"})).json()["status"] != word:
                await asyncio.sleep(_POLL)
            return (time.monotonic() - begun) * 1000

        try:
            for _ in range(runs):
                on.append(await act("poweron", "running"))
                begun = time.monotonic()
                await http.get(machine, params={"fields": "status"})
                plain.append((time.monotonic() - begun) * 1000)
                off.append(await act("kill", "stopped"))
        finally:
            await http.delete(f"/api/v4/vms/{made['$key']}")
    against = "one look at its status"
    return [Row(ROWS[0], "ms", on, plain, against, ON), Row(ROWS[1], "ms", off, plain, against, OFF)]
