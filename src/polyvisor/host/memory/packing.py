"""Images are compressed in the background, one at a time, when they are on disk and nobody needs them at the moment.

What an image lies on goes along where nothing else lies on it. What others stand on too is left alone: it is either a
snapshot, which has a wish of its own, or the memory of a fork's siblings, of which the next may be woken any time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection

from polyvisor.host.memory.images import MemoryImages
from polyvisor.host.memory.packed import pack, unpack
from polyvisor.host.sparse import copy_data
from polyvisor.model.compression import Compression, Packed, PackState, parse_compression
from polyvisor.model.faults import Fault
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import Bytes

log = logging.getLogger("polyvisor.host")


class Packer:
    """`is_mapped`: a process runs on that image's file. `is_lone`: only that image lies on that base. Both block."""

    def __init__(
        self, images: MemoryImages, is_mapped: Callable[[str], bool], is_lone: Callable[[str, str], bool]
    ) -> None:
        self._images = images
        self._mapped = is_mapped
        self._lone = is_lone
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._held: dict[InstanceId, frozenset[str]] = {}
        self._turn = asyncio.Lock()

    def soon(self, image: str) -> None:
        """Compress it, if that is wanted and not done. An image that somebody needs has its turn later."""
        facts = self._images.facts(image)
        if facts is None or not facts.packing or facts.packing_error or facts.host_boot or image in self._jobs:
            return
        if not any(image in held for held in self._held.values()):
            task = asyncio.create_task(self._run(image), name=f"pack {image}")
            self._jobs[image] = task
            task.add_done_callback(lambda _: self._jobs.pop(image, None) if self._jobs.get(image) is task else None)

    async def hold(self, id: InstanceId, images: Collection[str]) -> None:
        """Whatever is being done to these images is given up, and not begun again until they are released."""
        self._held[id] = frozenset(images)
        for image in images:
            await self.stop(image)

    def release(self, id: InstanceId) -> None:
        """What was put off may go on."""
        for image in self._held.pop(id, ()):
            self.soon(image)

    async def stop(self, image: str) -> None:
        """Nothing is being done to that image when this returns."""
        job = self._jobs.pop(image, None)
        if job is not None:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    async def _run(self, image: str) -> None:
        facts = self._images.facts(image)
        if facts is None:
            return
        try:
            since = self._images.devices(image).stat().st_mtime
            await asyncio.sleep(max(0.0, min(facts.delay, since + facts.delay - time.time())))
            wanted = parse_compression(facts.packing)
            async with self._turn:
                if await asyncio.to_thread(self._mapped, image):
                    return
                await self._pack(image, wanted)
                lone = await asyncio.to_thread(self._lone, facts.base, image) if facts.base else False
                if lone:
                    await self._pack(facts.base, wanted)
        except (Fault, OSError) as error:
            said = error.public if isinstance(error, Fault) else str(error)
            log.warning("memory image %s stays as it is: %s %s", image, said, getattr(error, "private", ""))
            try:
                await asyncio.to_thread(self._images.note, image, packing_error=said)
            except (Fault, OSError) as second:  # a full disk takes that as well: it is tried again by the next start
                log.warning("memory image %s: that could not be written down: %s", image, second)

    async def _pack(self, image: str, wanted: Compression) -> None:
        plain = self._images.on_disk(image)
        if self._images.packed(image) is not None:
            plain.unlink(missing_ok=True)  # made again for somebody who has read it by now
        if not plain.exists():
            return
        part, count = await pack(plain, wanted)
        settling = asyncio.ensure_future(
            asyncio.to_thread(self._images.settle, image, part, wanted.algorithm, int(count))
        )
        try:
            await asyncio.shield(settling)
        except asyncio.CancelledError:  # whoever stops us looks at the files next
            await settling
            raise

    async def close(self) -> None:
        """Give up what is under way; the next start begins it again."""
        for image in list(self._jobs):
            await self.stop(image)

    def state(self, image: str) -> Packed:
        """What has become of it. It is compressed once its plain pages are gone: until then it takes more room."""
        facts, packed = self._images.facts(image), self._images.packed(image)
        if facts is None:
            return Packed()
        if packed is not None and image not in self._jobs:
            return Packed(PackState.COMPRESSED, "", Bytes(packed.stat().st_size), Bytes(facts.plain))
        if facts.packing_error:
            return Packed(PackState.ERROR, facts.packing_error)
        return Packed(PackState.COMPRESSING if facts.packing else PackState.NONE)


def assemble(images: MemoryImages, image: str, base: str, target: int) -> None:
    """All of a machine's memory in one sparse file: the base's pages, if there is one, and over them the image's.

    It blocks. :raise NoCapacity, Internal, OSError:
    """
    for each in filter(None, (base, image)):
        plain, packed = images.file(each), images.packed(each)
        if plain is not None:
            with plain.open("rb", buffering=0) as source:
                copy_data(source.fileno(), target)
        elif packed is not None:
            unpack(packed, target)
        else:
            raise FileNotFoundError(f"the pages of {each}")
    os.lseek(target, 0, os.SEEK_SET)
