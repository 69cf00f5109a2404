"""What a running machine's disks hold at one moment, written into files while it runs on.

QEMU copies what is about to be overwritten first, so all the disks of one call are of the same moment, however long
the copying takes; and the guest notices nothing but a slower disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from polyvisor.host.hypervisor.qemu.argv import node_of
from polyvisor.host.hypervisor.qemu.chain import Ask, Give
from polyvisor.host.hypervisor.qemu.qmp import COMMAND_LIMIT
from polyvisor.model.faults import Fault, Internal
from polyvisor.ports.hypervisor import DiskFile

_FDSETS = 300_000  # fd sets of files that are written to are numbered from here
_POLL = 0.05


async def backup(ask: Ask, give: Give, pairs: Sequence[tuple[DiskFile, DiskFile]]) -> None:
    """See LiveVm.

    :raise Internal: with the hypervisor's own words in `private`; nothing of it goes on in the machine.
    """
    nodes = {f"copy-{target.serial}": target for _, target in pairs}
    jobs = {node: f"job-{node}" for node in nodes}
    first = max([_FDSETS, *(found["fdset-id"] for found in await ask("query-fdsets", COMMAND_LIMIT))]) + 1
    sets = {node: first + index for index, node in enumerate(nodes)}
    try:
        for node, target in nodes.items():
            await give(target.path, os.O_RDWR, sets[node])
            file = {"driver": "file", "filename": f"/dev/fdset/{sets[node]}", "discard": "unmap"}
            options = {"driver": "raw", "node-name": node, "file": file, "discard": "unmap"}
            await ask("blockdev-add", COMMAND_LIMIT, **options)
        actions = [
            {
                "type": "blockdev-backup",
                "data": {
                    "device": node_of(source), "target": node, "job-id": jobs[node], "sync": "full",
                    "auto-dismiss": False,
                },
            }
            for (source, _), node in zip(pairs, nodes, strict=True)
        ]  # fmt: skip
        await ask("transaction", COMMAND_LIMIT, actions=actions)
        await _concluded(ask, set(jobs.values()))
    finally:
        await asyncio.shield(_drop(ask, jobs, sets))


async def _concluded(ask: Ask, jobs: set[str]) -> None:
    """:raise Internal: one of them failed."""
    while True:
        known = {job["id"]: job for job in await ask("query-jobs", COMMAND_LIMIT) if job["id"] in jobs}
        if failed := next((job["error"] for job in known.values() if job.get("error")), None):
            raise Internal("the disks could not be copied", private=str(failed))
        if len(known) < len(jobs):
            raise Internal("the disks could not be copied", private="a job is not there any more")
        if all(job["status"] == "concluded" for job in known.values()):
            return
        await asyncio.sleep(_POLL)


async def _drop(ask: Ask, jobs: dict[str, str], sets: dict[str, int]) -> None:
    """Nothing of it is left in the machine, whatever it had come to."""
    for job in jobs.values():
        with contextlib.suppress(Fault):
            await ask("job-cancel", COMMAND_LIMIT, id=job)
    for node, job in jobs.items():
        for _ in range(100):  # one that is cancelled concludes a moment later
            with contextlib.suppress(Fault):
                await ask("job-dismiss", COMMAND_LIMIT, id=job)
            with contextlib.suppress(Fault):
                if all(known["id"] != job for known in await ask("query-jobs", COMMAND_LIMIT)):
                    break
            await asyncio.sleep(_POLL)
        for command, said in (("blockdev-del", {"node_name": node}), ("remove-fd", {"fdset_id": sets[node]})):
            with contextlib.suppress(Fault):
                await ask(command, COMMAND_LIMIT, **said)
