"""Every path of the data directory has a name here, and only here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from polyvisor.model.ids import InstanceId


@dataclass(frozen=True, slots=True)
class Paths:
    """The layout below the data directory."""

    root: Path

    @property
    def instances(self) -> Path:
        """One directory per instance."""
        return self.root / "instances"

    @property
    def volumes(self) -> Path:
        """One file per volume."""
        return self.root / "volumes"

    @property
    def images(self) -> Path:
        """One directory per image, by digest."""
        return self.root / "images"

    @property
    def blanks(self) -> Path:
        """Blank file systems, one per size, that data disks are overlays of."""
        return self.root / "blanks"

    @property
    def boot(self) -> Path:
        """The guest kernel, its modules and the initial RAM disk."""
        return self.root / "boot"

    @property
    def network(self) -> Path:
        """What the shared network needs: the pid of its DHCP server, its leases."""
        return self.root / "network"

    @property
    def ballast(self) -> Path:
        """Room that is kept for when there is none."""
        return self.root / "ballast"

    @property
    def run(self) -> Path:
        """What a helper under a uid of its own must read: the data directory is closed to it. Gone after a boot."""
        return Path("/run") / f"polyvisor-{hashlib.sha256(bytes(self.root.absolute())).hexdigest()[:12]}"

    def instance(self, id: InstanceId) -> Path:
        """The directory of one instance."""
        return self.instances / id

    def disk(self, id: InstanceId) -> Path:
        """The writable disk of one instance."""
        return self.instance(id) / "disk.qcow2"

    def volume(self, id: str) -> Path:
        """The file of one volume."""
        return self.volumes / f"{id}.raw"

    def make(self) -> None:
        """Create the directories, readable by us alone."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.instances, self.volumes, self.images, self.blanks, self.boot, self.network):
            path.mkdir(mode=0o700, exist_ok=True)


CONSOLE = "console.log"
JOURNAL = "journal.bin"
VMM_LOG = "vmm.log"
QMP_SOCKET = "qmp.sock"
CONSOLE_SOCKET = "console.sock"
AGENT_SOCKET = "agent.sock"
SEED = "seed.iso"
CONFIG = "config.bin"
NVRAM = "nvram.fd"
