"""A limit of the speed of a machine's disks.

It is kept where the device has its disk, above all block nodes: overlays that a machine is switched to later need no
thought. It is a matter of the process alone, so one that is restored gets it anew.
"""

from __future__ import annotations

from polyvisor.host.hypervisor.qemu.chain import Ask
from polyvisor.host.hypervisor.qemu.qmp import COMMAND_LIMIT

_OURS = "/machine/peripheral/"
_GROUP = "disks"
_UNLIMITED = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


async def throttle(ask: Ask, rate: int) -> None:
    """All disks that are plugged in share `rate` bytes a second; 0: nothing is done. Safe to repeat."""
    if not rate:
        return
    for block in await ask("query-block", COMMAND_LIMIT):
        if block.get("qdev", "").startswith(_OURS) and "inserted" in block:
            await ask("block_set_io_throttle", COMMAND_LIMIT, id=block["qdev"], bps=rate, group=_GROUP, **_UNLIMITED)
