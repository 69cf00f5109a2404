"""Which memory each machine has: its file in RAM, the image it was made of, the image it waits in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

from polyvisor.host.durable import full
from polyvisor.host.memory.bases import Bases, Draft, empty
from polyvisor.host.memory.fits import facts_of, require_fit, volumes_of, words_of
from polyvisor.host.memory.flushing import MOMENT, Flusher
from polyvisor.host.memory.images import Facts, MemoryImages
from polyvisor.host.memory.packing import Packer, assemble
from polyvisor.host.memory.ram import RamFiles
from polyvisor.host.memory.records import Holds, Records
from polyvisor.host.paths import Paths
from polyvisor.host.sparse import copy_data
from polyvisor.model.compression import Packed, Packing
from polyvisor.model.faults import Busy, Fault, Unavailable, Unsupported
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId, mint
from polyvisor.model.units import Bytes
from polyvisor.ports.hypervisor import Hypervisor, Layout, LiveVm, Memory, Saved

log = logging.getLogger("polyvisor.host")
T = TypeVar("T")
_NO_FILE = "memory: this machine's is not backed by a file, so it cannot be saved"


class MemoryFiles:
    """Every verb is safe to repeat. Images that no instance and no snapshot refers to are removed."""

    def __init__(self, paths: Paths, hypervisor: Hypervisor, boot: str) -> None:
        self._paths = paths
        self._hypervisor = hypervisor
        self._boot = boot
        self._ram = RamFiles(paths)
        self._able = "memory" in hypervisor.abilities
        self._records = Records(paths)
        self._images = MemoryImages(paths.memory, paths.shm)
        self._bases = Bases()
        self._packer = Packer(self._images, self._is_mapped, self._is_lone)
        self._flusher = Flusher(self._images, self._packer)
        self._making: set[str] = set()
        self._collecting: asyncio.Task[None] | None = None
        self._again = False

    # -- what is on record -------------------------------------------------------------------------------------

    def is_saved(self, id: InstanceId) -> bool:
        """Whether there is an image from which the instance can go on."""
        holds = self._records.of(id)
        return bool(holds.saved) and holds.boot in ("", self._boot) and self._is_whole(holds.saved)

    def is_strange(self, id: InstanceId) -> bool:
        """Whether its machine is, or will be, a copy of another one that does not know yet who it is."""
        return self._records.of(id).strange

    def is_bare(self, id: InstanceId) -> bool:
        """Whether it is a copy of a machine that had nothing to do, and has not been told what to do either."""
        return self._records.of(id).bare

    def is_idle(self, id: InstanceId) -> bool:
        """Whether it knows who it is and waits to be told what for."""
        return self._records.of(id).idle

    def _is_stranded(self, id: InstanceId) -> bool:
        """Whether it was to go on from memory that was lost before it ever did: a boot is not what was asked for."""
        holds = self._records.of(id)
        return bool(holds.saved) and holds.strange and not holds.bare and not self.is_saved(id)

    def introduced(self, id: InstanceId, *, bare: bool = False) -> None:
        """It knows who it is now, and, unless it is still `bare`, what it is for."""
        self._records.put(id, replace(self._records.of(id), strange=False, bare=bare))

    def _is_whole(self, image: str) -> bool:
        facts = self._images.facts(image)
        if facts is None or not self._images.is_of_this_boot(facts, self._boot):
            return False
        there = self._bases.has(image) or self._images.is_there(image)
        return there and (not facts.base or self._is_whole(facts.base))

    # -- running machines --------------------------------------------------------------------------------------

    def fresh(self, id: InstanceId, size: int) -> Memory | None:
        """Empty memory for a machine that starts cold: a file in tmpfs, or, where that has no room, one without a name,
        whose descriptor is the caller's. None: this hypervisor cannot save any.

        :raise Unavailable: it was to go on as a copy of another machine, and cannot any more.
        """
        if self._is_stranded(id):
            raise Unavailable("the memory that it was to go on from is not there any more")
        self.forget(id)
        self.ended(id)
        if not self._able:
            return None
        if not self._ram.have_room_for(size):
            return Memory(empty(size), own=True)
        os.close(self._ram.make(id, size))
        return Memory(self._ram.path(id), own=True)

    def ended(self, id: InstanceId) -> None:
        """Its process is gone, and with it the need for what it mapped, unless it waits in an image upon that."""
        self._ram.remove(id)
        holds = self._records.of(id)
        if holds.base and not holds.saved:
            self._records.put(id, Holds())
            self._collect_soon()

    # -- saving ------------------------------------------------------------------------------------------------

    async def save(self, blueprint: Blueprint, vm: LiveVm, packing: Packing) -> None:
        """An image of a machine whose vCPUs are stopped; from here on it waits there, whatever becomes of the process.

        :raise Unsupported: no file backs its memory. :raise NoCapacity: the disk is full. Nothing is left then.
        """
        id, image = blueprint.id, mint()
        holds = self._records.of(id)
        own = None if holds.base else self._own(id, vm)
        with self._being_made(image):
            layout = await vm.save(self._images.devices(image))
            if own is None:
                await self._keep_base(holds.base, vm)
                await self._dump(image, blueprint, vm)
            elif own == self._ram.path(id):
                os.link(own, self._images.in_ram(image))
            else:
                await asyncio.to_thread(_write_down, own, self._images.on_disk(image))
            self._images.write(image, facts_of(blueprint, holds, layout, self._hypervisor, self._boot, packing))
            self._records.put(id, replace(holds, saved=image, boot=""))
        self._collect_soon()  # an earlier attempt may have left one

    async def copy(  # noqa: PLR0913 - as many sides as a copy has
        self, blueprint: Blueprint, vm: LiveVm, image: str, *, keep: bool, meanwhile: Callable[[], Awaitable[None]],
        go_on: bool, packing: Packing,
    ) -> None:  # fmt: skip
        """An image of a running or paused machine, which stands still for it and then goes on, if it is to.

        `meanwhile` happens while it does. Without `keep` the image lasts only as long as somebody maps it.
        :raise Unsupported: no file backs its memory. :raise Busy: it was not told yet what it is for.
        :raise NoCapacity: the disk is full. Nothing is left then.
        """
        holds = self._records.of(blueprint.id)
        if holds.bare and not blueprint.spec.bare:
            raise Busy("the instance is not ready yet", retry_after=1.0)
        base = holds.base
        draft = None if base else Draft(self._own(blueprint.id, vm))
        try:
            self._images.remove(image)
            with self._being_made(image):
                if draft is not None:
                    await asyncio.to_thread(draft.copy)
                if base:
                    await self._keep_base(base, vm) if keep else self._bases.recover(base, vm)
                await vm.pause()
                pages = asyncio.to_thread(draft.copy) if draft is not None else self._dump(image, blueprint, vm)
                try:
                    layout = await _both(vm.save(self._images.devices(image)), pages)
                    await meanwhile()
                finally:
                    if go_on:
                        await vm.resume()
                if draft is not None:
                    self._bases.put(image, draft.seal())
                    if keep:
                        await asyncio.to_thread(self._bases.write, image, self._images.on_disk(image))
                facts = facts_of(blueprint, holds, layout, self._hypervisor, self._boot, packing)
                self._images.write(image, replace(facts, volumes=volumes_of(blueprint, self._paths)))
        finally:
            if draft is not None:
                draft.close()

    async def copy_saved(self, blueprint: Blueprint, image: str, packing: Packing) -> None:
        """An image that is the one which the instance waits in. :raise Unavailable: it waits in none."""
        saved = self._records.of(blueprint.id).saved
        facts = self._images.facts(saved)
        if not saved or facts is None or not self._is_whole(saved):
            raise Unavailable("the instance's saved memory is not there")
        await self._packer.hold(blueprint.id, (saved,))
        try:
            self._images.remove(image)
            with self._being_made(image):
                self._images.link(saved, image)
                now, volumes = self._images.facts(saved) or facts, volumes_of(blueprint, self._paths)
                wanted = replace(now, packing=words_of(packing), delay=packing.delay, packing_error="", volumes=volumes)
                self._images.write(image, wanted)
        finally:
            self._packer.release(blueprint.id)

    @contextlib.contextmanager
    def _being_made(self, image: str) -> Iterator[None]:
        """Its directory; whatever goes wrong, nothing of it is left."""
        self._making.add(image)
        try:
            self._images.folder(image).mkdir(mode=0o700)
            yield
        except BaseException as error:
            self._drop(image)
            if isinstance(error, OSError):
                raise full(error) from error
            raise
        finally:
            self._making.discard(image)

    def _own(self, id: InstanceId, vm: LiveVm) -> Path:
        """The file that is the RAM of a machine which started cold. :raise Unsupported: none is."""
        file = self._ram.path(id) if self._ram.path(id).exists() else vm.ram()
        if file is None:
            raise Unsupported(_NO_FILE)
        return file

    async def _dump(self, image: str, blueprint: Blueprint, vm: LiveVm) -> None:
        fd = os.open(self._images.on_disk(image), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(fd, blueprint.spec.memory)
            await vm.dump(fd)
        finally:
            os.close(fd)

    async def _keep_base(self, base: str, vm: LiveVm) -> None:
        """What is to be written upon it must find it there, also when no process maps it any more."""
        if not self._images.is_there(base):
            self._bases.recover(base, vm)
            await asyncio.to_thread(self._bases.write, base, self._images.on_disk(base))

    # -- going on from an image --------------------------------------------------------------------------------

    def has(self, image: str) -> bool:
        """Whether there is such an image, whole or not."""
        return self._images.facts(image) is not None

    def require(self, image: str, blueprint: Blueprint) -> None:
        """That this instance can go on from it here.

        :raise Unavailable: it is not whole any more. :raise Unsupported: it is of another host or machine, and how.
        """
        facts = self._images.facts(image)
        if facts is None or not self._is_whole(image):
            raise Unavailable("the saved memory is not there any more")
        require_fit(facts, blueprint, self._hypervisor, self._paths)

    def size(self, image: str) -> Bytes:
        """Bytes that it takes on this host."""
        return self._images.size(image)

    def wait_in(self, id: InstanceId, image: str, *, copy: bool) -> None:
        """The instance, of which no process is there, waits in an image that others may use as well. `copy`: the image
        is of another one. It is strange without that, too, if the image is of a time when it had not been told yet."""
        facts = self._images.facts(image)
        strange = copy or (facts is not None and facts.strange)
        bare = copy and facts is not None and facts.bare
        self._records.put(id, Holds("", image, True, strange, bare, self._boot if copy else ""), durable=not copy)
        self._collect_soon()

    def fits(self, image: str, blueprint: Blueprint) -> bool:
        """Whether a machine of this host and that size can go on from it."""
        try:
            self.require(image, blueprint)
        except (Unavailable, Unsupported):
            return False
        return True

    def is_template(self, image: str) -> bool:
        """Whether it is of a machine that had nothing to do."""
        facts = self._images.facts(image)
        return facts is not None and facts.bare

    async def waiting(self, blueprint: Blueprint) -> tuple[Memory, Saved]:
        """The image that the instance waits in, as a driver takes it.

        :raise Unavailable: it is not whole. :raise Unsupported: this host cannot go on from it, and why.
        """
        holds = self._records.of(blueprint.id)
        image = holds.saved
        facts = self._images.facts(image) if image else None
        if facts is None or not self.is_saved(blueprint.id):
            raise Unavailable("the instance's saved memory is not there any more")
        require_fit(facts, blueprint, self._hypervisor, self._paths)
        root, devices = facts.base or image, self._images.devices(image)
        layout = Layout(facts.slots, facts.disks, facts.balloon)
        await self._packer.hold(blueprint.id, {image, root})
        if not holds.shared:
            await self._flusher.stop(image)
            if await self._is_made_its_own(blueprint, image, facts):
                return Memory(self._ram.path(blueprint.id), own=True), Saved(devices, layout)
        saved = Saved(devices, layout, await self._plain(image) if facts.base else None)
        if holds.shared:
            file = self._images.file(root) or self._images.packed(root)
            return Memory(await asyncio.to_thread(self._bases.of, root, file), own=False), saved
        return Memory(await self._plain(root), own=False), saved

    async def _is_made_its_own(self, blueprint: Blueprint, image: str, facts: Facts) -> bool:
        """Whether the machine has its memory as a file in RAM again, as if started cold: what never left RAM, and what
        must be copied anyhow since it is compressed. The image stays whole until the machine runs."""
        id, root = blueprint.id, facts.base or image
        if not facts.base and self._images.is_in_ram_alone(image):
            self.ended(id)
            os.link(self._images.in_ram(image), self._ram.path(id))
            return True
        if self._images.file(root) is not None:
            return False
        self.ended(id)
        if not self._ram.have_room_for(facts.size):
            return False
        fd = self._ram.make(id, facts.size)
        try:
            await asyncio.to_thread(assemble, self._images, image, facts.base, fd)
        except BaseException:
            self._ram.remove(id)
            raise
        finally:
            os.close(fd)
        return True

    async def _plain(self, image: str) -> Path:
        """A file of its pages as they are. :raise NoCapacity: it has to be made, and the disk is full."""
        found = self._images.file(image)
        if found is None:
            found = await asyncio.to_thread(self._images.unpack, image)
        return found

    def used(self, id: InstanceId) -> None:
        """A process has taken the image over: from its first instruction on, nothing may be made of it again."""
        holds = self._records.of(id)
        facts = self._images.facts(holds.saved) if holds.saved else None
        if facts is None:
            return
        own = self._ram.path(id).exists()
        base = "" if own else facts.base or holds.saved
        self._records.put(id, replace(holds, base=base, saved=""), durable=not facts.host_boot and not holds.boot)
        self._packer.release(id)
        self._collect_soon()

    def forget(self, id: InstanceId) -> None:
        """The instance does not wait in an image any more."""
        holds = self._records.of(id)
        if holds.saved:
            self._records.put(id, Holds(holds.base), durable=True)
            self._collect_soon()

    # -- on disk -----------------------------------------------------------------------------------------------

    def flush_soon(self, id: InstanceId) -> None:
        """Put the image that the instance waits in on disk, beside everything else."""
        self._packer.release(id)
        image = self._records.of(id).saved
        facts = self._images.facts(image) if image else None
        if facts is not None and not facts.host_boot:
            self._packer.soon(image)
        there = self._images.file(image) is not None  # else only processes have it
        if facts is not None and facts.host_boot and there:
            self._flusher.soon(image, before=(self._records.file(id), self._paths.instance(id)))

    async def flush(self, image: str) -> None:
        """On disk when this returns, with what it lies on. :raise NoCapacity: the disk is full."""
        await self._flusher.flush(image)

    def pack_soon(self, image: str) -> None:
        """Compress an image that is on disk, if that is wanted of it."""
        self._packer.soon(image)

    def packed(self, image: str) -> Packed:
        """What has become of that."""
        return self._packer.state(image)

    def _is_mapped(self, image: str) -> bool:
        """Whether a process has its file on disk for memory: without the file's name it would take as much room."""
        return any(h.base == image and not h.saved and not h.shared for h in self._records.all())

    def _is_lone(self, base: str, image: str) -> bool:
        """Whether nothing but that image, and the one instance that waits in it, refers to that base."""
        others = (self._images.facts(other) for other in self._images.all() - {image})
        if (self._paths.snapshot(base)).exists() or any(f is not None and f.base == base for f in others):
            return False
        return sum(held == base for held in self._records.images()) <= 1

    # -- housekeeping ------------------------------------------------------------------------------------------

    def _drop(self, image: str) -> None:
        self._images.remove(image)
        self._bases.forget(image)

    def _collect_soon(self) -> None:
        if self._collecting is None or self._collecting.done():
            self._collecting = asyncio.create_task(self._collect_later(), name="collect memory")
        else:
            self._again = True

    async def _collect_later(self) -> None:
        await asyncio.sleep(MOMENT)
        await self.collect()

    async def collect(self) -> None:
        """Remove images that nothing refers to."""
        self._again = True
        while self._again:
            self._again = False
            known = self._bases.known()
            try:
                left, needed = await asyncio.to_thread(self._left)
            except (Fault, OSError) as error:  # a record that cannot be read keeps everything
                log.error("memory images are not cleared away: %r", error)
                return
            for image in left:
                await self._packer.stop(image)
                await asyncio.to_thread(self._images.remove, image)
            for image in known - needed - self._making:
                self._bases.forget(image)

    def _left(self) -> tuple[set[str], set[str]]:
        """Images that may go, and those that may not. What is there is listed first: an image that was being made then
        has its record by the time they are read."""
        found = self._images.all()
        needed = set(self._making) | {path.name for path in self._paths.snapshots.iterdir()}
        needed.update(self._records.images())
        for image in list(needed):
            facts = self._images.facts(image) if image else None
            needed |= {facts.base} if facts is not None else set()
        return found - needed, needed

    async def sweep(self, known: Collection[InstanceId], alive: Collection[InstanceId]) -> None:
        """Files in RAM of instances that no record knows, images that nothing refers to; the rest is put on disk."""
        for id in known:
            if not self.is_saved(id) and not self._is_stranded(id):
                self.forget(id)
            elif id not in alive and self._records.of(id).saved:
                self._ram.remove(id)  # it was being made when a server died
        await self.collect()
        self._ram.sweep(set(known) | self._images.all())
        for image in self._images.all():
            self._images.tidy(image)
            self._packer.soon(image)
        for id in known:
            self.flush_soon(id)

    async def close(self) -> None:
        """Let go; what is not on disk yet is put there by the next start."""
        await self._packer.close()
        await self._flusher.close()
        if self._collecting is not None:
            await asyncio.gather(self._collecting, return_exceptions=True)
        for image in self._bases.known():
            self._bases.forget(image)
        with contextlib.suppress(OSError):  # others' memory is in it, or it was never made
            self._paths.shm.rmdir()


def _write_down(memory: Path, file: Path) -> None:
    """A sparse file of it. :raise OSError: the disk is full."""
    into = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with memory.open("rb", buffering=0) as source:
            os.truncate(into, os.fstat(source.fileno()).st_size)
            copy_data(source.fileno(), into)
    finally:
        os.close(into)


async def _both(main: Awaitable[T], beside: Awaitable[None]) -> T:
    """What `main` gives, once both are over, whatever becomes of them."""
    result, other = await asyncio.gather(main, beside, return_exceptions=True)
    for error in (result, other):
        if isinstance(error, BaseException):
            raise error
    return cast(T, result)
