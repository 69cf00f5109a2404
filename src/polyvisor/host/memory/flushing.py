"""Images on their way from RAM to the disk, beside everything else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from polyvisor.host.durable import sync
from polyvisor.host.memory.images import MemoryImages
from polyvisor.host.memory.packing import Packer
from polyvisor.model.faults import Fault

log = logging.getLogger("polyvisor.host")
MOMENT = 0.1  # seconds in which whoever made the image gets his answer: the disk and Python's lock are busy after that


class Flusher:
    """Once an image is on disk it may be compressed."""

    def __init__(self, images: MemoryImages, packer: Packer) -> None:
        self._images = images
        self._packer = packer
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def soon(self, image: str, before: Sequence[Path]) -> None:
        """Begin, unless that has been begun; what is at `before` is put on disk first."""
        if image not in self._tasks:
            task = asyncio.create_task(self._flush(image, before), name=f"flush {image}")
            self._tasks[image] = task
            task.add_done_callback(lambda _: self._tasks.pop(image, None))

    async def _flush(self, image: str, before: Sequence[Path]) -> None:
        await asyncio.sleep(MOMENT)
        try:
            for path in before:
                await asyncio.to_thread(sync, path)
            await self.flush(image)
        except (Fault, OSError) as error:
            log.warning("memory image %s is not on disk yet: %s", image, error)
            return
        self._packer.soon(image)

    async def flush(self, image: str) -> None:
        """On disk when this returns, with what it lies on. :raise NoCapacity: the disk is full."""
        facts = self._images.facts(image)
        if facts is not None and facts.base:
            await self._images.flush(facts.base)
        await self._images.flush(image)

    async def stop(self, image: str) -> None:
        """Not now, after all."""
        task = self._tasks.pop(image, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Stop them all; the next start begins them again."""
        for image in list(self._tasks):
            await self.stop(image)
