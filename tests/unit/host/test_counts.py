"""What a monitor tells of a machine's disks."""

from __future__ import annotations

from polyvisor.host.hypervisor.qemu.counts import disk_counts
from polyvisor.model.host import DiskCounts


def test_devices_that_have_a_name_are_known_by_their_serials() -> None:
    stats = {"rd_operations": 1, "wr_operations": 2, "rd_bytes": 3, "wr_bytes": 4, "flush_operations": 5}
    told = [
        {"qdev": "/machine/peripheral/fixed-pvdisk/virtio-backend", "stats": stats},
        {"qdev": "/machine/peripheral/hp3-abc/virtio-backend", "stats": {"rd_bytes": 7}},
        {"qdev": "/machine/peripheral/usb-def/usb-def.0/legacy[0]", "stats": {}},
        {"qdev": "/machine/peripheral-anon/device[3]/virtio-backend", "stats": stats},
        {"node-name": "disk-abc", "stats": stats},
    ]
    assert disk_counts(told) == {
        "pvdisk": DiskCounts(1, 2, 3, 4),
        "abc": DiskCounts(read=7),
        "def": DiskCounts(),
    }
