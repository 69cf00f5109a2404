"""Images on one host: fetched, checked, made into one read-only file each, and kept by digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from polyvisor.model.appliance import Appliance
from polyvisor.model.ids import Digest
from polyvisor.model.image import Image, ImageSource
from polyvisor.model.push import Login, Sent
from polyvisor.model.units import Bytes

Progress = Callable[[str, float | None], None]
"""Told what is being done, and the part of the whole that is done (0 to 1) where that is known. Must not raise."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a manifest names: `parts` with their sizes in bytes. An index has none, but a manifest that is for this
    host (`chosen`). `media` is the type that it says it is of, if it does."""

    parts: Mapping[Digest, int] = field(default_factory=dict)
    chosen: Digest | None = None
    media: str = ""


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

    async def vet_target(self, reference: str, *, trusted: bool, insecure: bool) -> str:
        """The full name of what would be pushed to. `trusted` ones may name registries that are not public, and such
        as do not speak TLS (`insecure`), which else only those may be that the operator's settings name.

        :raise Invalid: no full name with a tag. :raise Forbidden: not to there.
        """

    async def push(self, digest: Digest, target: str, *, trusted: bool, insecure: bool, login: Login | None) -> Sent:
        """Take an image to a registry, as one layer; vetted once more.

        :raise NotFound: no such image. :raise Unsupported: it is a disk. :raise Upstream: the registry.
        :raise NoCapacity: the disk is full. :raise Invalid, Forbidden, TimedOut:
        """

    def archived(self, digest: Digest) -> AbstractAsyncContextManager[Path]:
        """An image as an OCI layout of one layer, in a tar that is there as long as this is held.

        :raise NotFound: no such image. :raise Unsupported: it is a disk. :raise NoCapacity:
        """

    async def import_archive(self, path: Path, name: str, progress: Progress) -> Image:
        """The image in a `docker save` tar, an OCI layout (tar or directory), a qcow2 or a raw disk.

        The file is only read; a few at a time, others wait. :raise Invalid: it is none of these, is hostile or too
        large. :raise NoCapacity: the disk is full.
        """

    async def provide(self, source: ImageSource, name: str, progress: Progress) -> Image:
        """The image in the operator's file, or at his URL: fetched, if it is not here, verified, then as if it had been
        imported.

        :raise Upstream: it cannot be had, or is not what its checksum says. :raise Invalid, NoCapacity:
        """

    async def disk_size(self, path: Path, length: int, at: int = 0) -> Bytes:
        """What a guest would see of the disk that `length` bytes of a stranger's file are, from `at` on: a qcow2, a
        VMDK of one file, or else a disk as it stands.

        :raise Invalid: it is damaged. :raise Unsupported: another known form.
        """

    async def appliance(self, path: Path, length: int) -> Appliance | None:
        """The machine in the first `length` bytes of a stranger's file; None: it is no archive, but perhaps a disk.

        :raise Invalid: it is damaged or hostile. :raise Unsupported: it asks for what is not taken.
        """

    def packed(self, files: Sequence[Path], about: Appliance | None) -> AbstractAsyncContextManager[Path]:
        """Disks of ours, as they stand, in an archive with a descriptor, or one of them as a qcow2: a file that is
        there as long as this is held. :raise NoCapacity:
        """

    def unpacked(self, path: Path, length: int, at: int = 0) -> AbstractAsyncContextManager[Path]:
        """That disk as it stands, in a file that is the caller's to take. :raise Invalid, Unsupported, NoCapacity:"""

    async def contents(self, manifest: bytes) -> Contents:
        """What a manifest or an index from a stranger names.

        :raise Invalid: it is malformed or too large. :raise Unsupported: an index without one for this host.
        """

    async def import_parts(self, place: Path, name: str, progress: Progress) -> Image:
        """The image of `place/manifest.json`, whose parts lie beside it, each called by the hex of its digest.

        They are only read. The image has the manifest's digest; one that is here is not made again.
        :raise Invalid, Unsupported, NoCapacity:
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
