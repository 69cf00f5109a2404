"""Images on one host: fetched, checked, made into one read-only file each, and kept by digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from polyvisor.model.ids import Digest
from polyvisor.model.image import Image

Progress = Callable[[str, float | None], None]
"""Told what is being done, and the part of the whole that is done (0 to 1) where that is known. Must not raise."""


class Images(Protocol):
    """What decisions may ask of a host's images. All or nothing: a failed verb leaves no file behind."""

    async def vet(self, reference: str, *, trusted: bool) -> str:
        """The full name of what would be pulled. `trusted` ones may name registries that are not public.

        :raise NotFound: a short name, and no registry is configured for those. :raise Forbidden: not from there.
        """

    async def pull(self, reference: str, progress: Progress, *, trusted: bool = False) -> Image:
        """The image of that name, from the built-in ones or from its registry; vetted once more.

        Pulls of the same image at the same time are done once. A `ready` digest is never fetched again.
        :raise Invalid: the name is malformed, or the image is hostile or broken. :raise NotFound: no such image.
        :raise Upstream: the registry. :raise NoCapacity: the disk is full. :raise TimedOut, Forbidden:
        """

    async def import_archive(self, path: Path, name: str, progress: Progress) -> Image:
        """The image in a `docker save` tar, an OCI layout (tar or directory), a qcow2 or a raw disk.

        The file is only read; a few at a time, others wait. :raise Invalid: it is none of these, is hostile or too
        large. :raise NoCapacity: the disk is full.
        """

    async def build(self, name: str, progress: Progress) -> Image:
        """The built-in image `name`, from this machine's own packages; at once when it is there already.

        :raise NotFound: no built-in of that name. :raise Unsupported: this host lacks what it is made with.
        """

    async def remove(self, digest: Digest) -> None:
        """No file and no name of it is left; safe to repeat. Whether it is in use is the caller's business."""

    async def path(self, digest: Digest) -> Path:
        """The read-only file: a squashfs for a root, a qcow2 for a disk. :raise NotFound:"""

    async def list(self) -> Sequence[Image]:
        """All of them: `ready`, and `pulling` with their progress."""
