"""Variables that are given to a VM that runs: kept in its memory, for what is executed later (instavm.md §1.4).

They lie in a file of a tmpfs, so a snapshot of the disk is without them and a standby is not. No server remembers
them; that there may be any stands in the VM's record, or each command would wait for a look into the guest.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.records import write_record
from polyvisor.dialects.instavm.vms import Vm, latest, one_at_a_time
from polyvisor.model.faults import Invalid, NotFound
from polyvisor.model.spec import check_env

_PATH = "/run/polyvisor/staged-env"
_LARGEST = 256 * 1024


async def put(call: Call, vm: Vm, wanted: Mapping[str, str]) -> None:
    """Further variables, or other values. :raise Invalid: one cannot be called so, or they are too many."""
    check_env(tuple(wanted.items()))
    data = json.dumps({**await of(call, vm), **wanted}).encode()
    if len(data) > _LARGEST:
        raise Invalid("entries: together more than 256 KiB", field="entries")

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    async with one_at_a_time(vm.instance.id):
        record = (await latest(call, vm)).record
        if not record.staged:
            await write_record(call, replace(record, staged=True))
    guest = await call.core.streams.guest(call.principal, vm.instance.id)
    await guest.write_file(_PATH, chunks(), mode=0o600)


async def of(call: Call, vm: Vm) -> Mapping[str, str]:
    """Those of a VM."""
    if not vm.record.staged:
        return {}
    guest = await call.core.streams.guest(call.principal, vm.instance.id)
    data = b""
    try:
        async for chunk in guest.read_file(_PATH):
            data += chunk
    except NotFound:
        return {}
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and all(isinstance(one, str) for one in found.values()) else {}
