"""Every path of the data directory has a name here, and only here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from polyvisor.model.faults import Unavailable
from polyvisor.model.ids import InstanceId

_SHM = Path("/dev/shm")  # noqa: S108 - below it we make a directory of our own that nobody else can read


@dataclass(frozen=True, slots=True)
class Place:
    """A pool: the directory that the operator named, and the folder in it that is ours alone."""

    name: str
    number: int
    path: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Paths:
    """The layout below the data directory, and the pools beside it."""

    root: Path
    pools: tuple[Place, ...] = ()

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
    def layers(self) -> Path:
        """One directory per layer: disks that are never written again, by instances and snapshots above them."""
        return self.root / "layers"

    @property
    def snapshots(self) -> Path:
        """One directory per snapshot."""
        return self.root / "snapshots"

    @property
    def boot(self) -> Path:
        """The guest kernel, its modules and the initial RAM disk."""
        return self.root / "boot"

    @property
    def network(self) -> Path:
        """What the shared network needs: the pid of its DHCP server, its leases."""
        return self.root / "network"

    @property
    def ingress(self) -> Path:
        """The proxy's working directory: the doors that it knocks at, and what is its own."""
        return self.root / "ingress"

    @property
    def vaults(self) -> Path:
        """The authority that guests with vaults believe."""
        return self.root / "vaults"

    @property
    def ballast(self) -> Path:
        """Room that is kept for when there is none."""
        return self.root / "ballast"

    @property
    def run(self) -> Path:
        """What a helper under a uid of its own must read: the data directory is closed to it. Gone after a boot."""
        return Path("/run") / f"polyvisor-{hashlib.sha256(bytes(self.root.absolute())).hexdigest()[:12]}"

    @property
    def memory(self) -> Path:
        """One directory per image of a machine's memory."""
        return self.root / "memory"

    @property
    def shm(self) -> Path:
        """Files in the host's RAM: the memory of running machines. Gone after a boot."""
        return _SHM / self.run.name

    def instance(self, id: InstanceId) -> Path:
        """The directory of one instance."""
        return self.instances / id

    def disk(self, id: InstanceId, generation: int = 0) -> Path:
        """A writable disk of one instance; the present one is the generation that its record names."""
        return self.instance(id) / (f"disk-{generation}.qcow2" if generation else "disk.qcow2")

    def disk_record(self, id: InstanceId) -> Path:
        """Which disk an instance writes to, and above what."""
        return self.instance(id) / DISK

    def layer(self, id: str) -> Path:
        """The directory of one layer."""
        return self.layers / id

    def layer_disk(self, id: str) -> Path:
        """The file of one layer. It is as deep as an instance's disk, so what lies below both has one relative name."""
        return self.layers / id / "disk.qcow2"

    def layer_record(self, id: str) -> Path:
        """What lies below one layer."""
        return self.layers / id / DISK

    def snapshot(self, id: str) -> Path:
        """The directory of one snapshot."""
        return self.snapshots / id

    def snapshot_record(self, id: str) -> Path:
        """Which layer a snapshot holds."""
        return self.snapshots / id / DISK

    def volume(self, id: str, pool: str = "") -> Path:
        """The file of one volume. :raise Unavailable: there is no such pool any more."""
        return self.pool(pool) / f"{id}.raw"

    def pool(self, name: str) -> Path:
        """The folder of one pool's volumes. :raise Unavailable:"""
        for place in self.pools:
            if place.name == name:
                return place.folder
        if name:
            raise Unavailable(f"pool: {name} is not configured on this host", field="pool", subject=name)
        return self.volumes

    def make(self) -> None:
        """Create the directories, readable by us alone."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        shared = (self.images, self.blanks, self.layers, self.snapshots, self.memory, self.boot, self.network)
        for path in (self.instances, self.volumes, *shared, *(place.folder for place in self.pools)):
            path.mkdir(mode=0o700, exist_ok=True)


RAM_SUFFIX = ".ram"  # of files that are, or were, a machine's RAM: by it a mapping is known
MEMFD_NAME = "polyvisor-ram"
DISK = "disk.json"
CONSOLE = "console.log"
JOURNAL = "journal.bin"
VMM_LOG = "vmm.log"
QMP_SOCKET = "qmp.sock"
CONSOLE_SOCKET = "console.sock"
AGENT_SOCKET = "agent.sock"
SEED = "seed.iso"
CONFIG = "config.bin"
NVRAM = "nvram.fd"
TPM = "tpm"
