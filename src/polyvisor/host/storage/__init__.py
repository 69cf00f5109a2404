"""Disks as files: qcow2 overlays and layers over shared images, raw volumes. A format is recorded, never probed.

`records` says who stands on whom, `layers` is snapshots, forks and what clears up after them, `overlays` and `blanks`
make single files, `local` is the Storage that is made of these.
"""

from polyvisor.host.storage.local import FileStorage

__all__ = ["FileStorage"]
