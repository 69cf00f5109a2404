"""Images of memory on disk: one directory each, complete once its facts are there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyvisor.host.durable import full, read_record, sync, write_record
from polyvisor.host.memory.packed import SUFFIXES, packed_name, unpack
from polyvisor.host.paths import RAM_SUFFIX
from polyvisor.host.sparse import copy_sparse
from polyvisor.model.compression import Algorithm
from polyvisor.model.faults import Internal
from polyvisor.model.units import Bytes

_FACTS = "facts.json"


@dataclass(frozen=True, slots=True)
class Facts:
    """What an image is of. `base` is the image that its pages lie on; `strange`: it is of a copy that did not know yet
    who it is; `slots` and `disks` say where its removable disks are; `host_boot` is the boot of the host that saw it
    made, as long as it is not known to be on disk. `bare`: its machine is to be told what it is for. `volumes` says by
    serial when those were last written to, where others may do so while the image is kept. `cpu`, `features` and
    `tsc_khz` are what its machine saw of the processor. `packing`: how its pages are to be compressed, `delay` seconds
    after they were written, why they could not be, and how many bytes they were before. `balloon`: the machine had
    one."""

    schema: int
    base: str
    strange: bool
    size: int
    hypervisor: str
    version: str
    accelerator: str
    shape: str
    vcpus: int
    slots: int
    disks: dict[str, int]
    host_boot: str
    bare: bool = False
    volumes: dict[str, int] = field(default_factory=dict)
    machine: str = ""
    cpu: str = ""
    features: dict[str, int] = field(default_factory=dict)
    tsc_khz: int = 0
    packing: str = ""
    delay: float = 0.0
    packing_error: str = ""
    plain: int = 0
    balloon: bool = False


class MemoryImages:
    """`disk/<id>/{facts.json,devices,pages.ram}`; pages that are only in RAM so far are `shm/<id>.ram`, those that are
    compressed `pages.ram.zst` or `.lz4`. Where there are both, both are good."""

    def __init__(self, disk: Path, shm: Path) -> None:
        self._disk = disk
        self._shm = shm

    def folder(self, image: str) -> Path:
        """Where an image is, or is to be made."""
        return self._disk / image

    def devices(self, image: str) -> Path:
        """What its devices were."""
        return self.folder(image) / "devices"

    def on_disk(self, image: str) -> Path:
        """Its pages, once they are there."""
        return self.folder(image) / f"pages{RAM_SUFFIX}"

    def in_ram(self, image: str) -> Path:
        """Its pages while they are not on disk."""
        return self._shm / f"{image}{RAM_SUFFIX}"

    def facts(self, image: str) -> Facts | None:
        """None: there is no such image, or it was never completed."""
        try:
            found = read_record(self.folder(image) / _FACTS)
            return None if found is None else Facts(**found)
        except (Internal, TypeError):
            return None

    def write(self, image: str, facts: Facts) -> None:
        """The image is complete."""
        write_record(self.folder(image) / _FACTS, dataclasses.asdict(facts), durable=not facts.host_boot)

    def is_of_this_boot(self, facts: Facts, boot: str) -> bool:
        """What was not on disk yet when the host went down is lost."""
        return not facts.host_boot or facts.host_boot == boot

    def file(self, image: str) -> Path | None:
        """Its pages, wherever they are."""
        return next((path for path in (self.on_disk(image), self.in_ram(image)) if path.exists()), None)

    def packed(self, image: str) -> Path | None:
        """Its compressed pages, if it has such."""
        plain = self.on_disk(image)
        names = (plain.with_name(plain.name + suffix) for suffix in SUFFIXES)
        return next((path for path in names if path.exists()), None)

    def is_there(self, image: str) -> bool:
        """Whether a file of its pages is there, in whatever form."""
        return self.file(image) is not None or self.packed(image) is not None

    def settle(self, image: str, part: Path, algorithm: Algorithm, plain: int) -> None:
        """From now on its pages are those compressed ones. What they were is written down first: whoever sees that they
        are there, from another thread, sees that as well."""
        self.note(image, packing_error="", plain=plain)
        part.rename(packed_name(self.on_disk(image), algorithm))
        sync(self.folder(image))
        self.on_disk(image).unlink(missing_ok=True)

    def note(self, image: str, **changed: Any) -> None:
        """What has become of its packing."""
        facts = self.facts(image)
        if facts is not None:
            self.write(image, dataclasses.replace(facts, **changed))

    def unpack(self, image: str) -> Path:
        """The file of its plain pages, which is made again where only compressed ones are left. It blocks.

        :raise NoCapacity: the disk is full; the image stays as it was.
        """
        final, packed = self.on_disk(image), self.packed(image)
        if packed is not None and not final.exists():
            part = final.with_suffix(".part")
            try:
                with part.open("w+b", buffering=0) as file:
                    unpack(packed, file.fileno())
                    os.fsync(file.fileno())
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            part.rename(final)
        return final

    def tidy(self, image: str) -> None:
        """Nothing is left of what was cut short."""
        for part in self.folder(image).glob("*.part"):
            part.unlink(missing_ok=True)

    def is_in_ram_alone(self, image: str) -> bool:
        """Whether its pages are a file in RAM that has no other name, so that a machine may have it for its own."""
        path = self.in_ram(image)
        return path.exists() and path.stat().st_nlink == 1

    def size(self, image: str) -> Bytes:
        """Bytes that it takes."""
        paths = (self.in_ram(image), self.on_disk(image), self.packed(image), self.devices(image))
        return Bytes(sum(path.stat().st_blocks * 512 for path in paths if path is not None and path.exists()))

    def link(self, source: str, image: str) -> None:
        """The files of one image are another's as well; its facts are not written yet."""
        pairs = [
            (self.devices(source), self.devices(image)),
            (self.on_disk(source), self.on_disk(image)),
            (self.in_ram(source), self.in_ram(image)),
        ]
        packed = self.packed(source)
        if packed is not None:
            pairs.append((packed, self.folder(image) / packed.name))
        for found, made in pairs:
            with contextlib.suppress(FileNotFoundError):
                os.link(found, made)

    async def flush(self, image: str) -> None:
        """Put on disk what is not there yet. :raise NoCapacity: the disk is full; the image stays as it was."""
        facts = self.facts(image)
        if facts is not None and facts.host_boot:
            stopped = threading.Event()
            try:
                await asyncio.to_thread(self._flush, image, stopped)
            except asyncio.CancelledError:
                stopped.set()  # who restores at once has better use for the machine than a copy that nobody needs
                raise
            self.write(image, dataclasses.replace(facts, host_boot=""))
            self.in_ram(image).unlink(missing_ok=True)

    def _flush(self, image: str, stopped: threading.Event) -> None:
        final = self.on_disk(image)
        if not final.exists():
            part = final.with_suffix(".part")
            try:
                copy_sparse(self.in_ram(image), part, stopped)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise full(error) from error
            part.rename(final)
        for path in (final, self.devices(image), self.folder(image)):
            sync(path)

    def remove(self, image: str) -> None:
        """Nothing of it is left."""
        self.in_ram(image).unlink(missing_ok=True)
        shutil.rmtree(self.folder(image), ignore_errors=True)

    def all(self) -> set[str]:
        """Every image there is, complete or not."""
        return {path.name for path in self._disk.iterdir()}
