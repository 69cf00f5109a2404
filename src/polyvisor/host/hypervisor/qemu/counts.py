"""What a machine's disks have done, as its monitor tells it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from polyvisor.model.host import DiskCounts

_DEVICE = re.compile(r"/machine/peripheral/[^/]+?-([^/-]+)(?:/|$)")  # where it is, then the serial: see `argv`


def disk_counts(told: Iterable[Mapping[str, Any]]) -> dict[str, DiskCounts]:
    """The answer to `query-blockstats`, by serial: of the devices that we gave a name, whatever lies below them."""
    found = {}
    for one in told:
        device = _DEVICE.match(str(one.get("qdev", "")))
        stats = one.get("stats", {})
        if device is not None:
            numbers = ("rd_operations", "wr_operations", "rd_bytes", "wr_bytes")
            found[device[1]] = DiskCounts(*(int(stats.get(name, 0)) for name in numbers))
    return found
