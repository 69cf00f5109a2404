"""What clients push, part by part, until a manifest names the parts and they become an image.

A shelf, not a store: parts lie in the uploads' folder under names of our own, for an hour after their last use, and are
gone when the server starts anew. Each project has its own and sees no other's.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from polyvisor.access.grants import require
from polyvisor.engine.images import BUILT_IN, ImagesEngine, needing_room
from polyvisor.model.faults import Busy, Exists, Invalid, NoCapacity, NotFound, Unsupported
from polyvisor.model.ids import Digest, ProjectId, mint
from polyvisor.model.image import parse_digest, parse_reference
from polyvisor.model.principal import Action, Principal
from polyvisor.model.units import GIB
from polyvisor.ports.host import Host

KEPT = timedelta(hours=1)
LIMIT = 32 * GIB
"""Of one part."""
HELD = 64 * GIB
"""Of all that a project has here."""
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_MOST_UPLOADS = 64
_MOST_PARTS = 10_000
_MOST_TAGS = 10_000


@dataclass(slots=True)
class Part:
    """A verified part. `media` is the type of a manifest, and "" for everything else."""

    path: Path
    size: int
    used: datetime
    media: str = ""


@dataclass(slots=True)
class Upload:
    """A part on its way. `busy`: somebody sends just now."""

    id: str
    name: str
    path: Path
    used: datetime
    size: int = 0
    hash: Any = field(default_factory=hashlib.sha256)
    busy: bool = False


@dataclass(slots=True)
class Shelf:
    """What one project has here; `held` is the bytes of it all. `tags` are by (name, tag)."""

    parts: dict[Digest, Part] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    tags: dict[tuple[str, str], Digest] = field(default_factory=dict)
    held: int = 0

    def drop(self, upload: Upload) -> None:
        """It is not on its way any more, and nothing of it is left."""
        if self.uploads.pop(upload.id, None) is not None:
            self.held -= upload.size
            upload.path.unlink(missing_ok=True)

    def remove(self, digest: Digest) -> None:
        """The part is not here any more."""
        part = self.parts.pop(digest)
        self.held -= part.size
        part.path.unlink(missing_ok=True)

    async def counted(self, upload: Upload, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What comes, measured and hashed on its way. :raise NoCapacity: the project has too much here."""
        async for chunk in chunks:
            if self.held + len(chunk) > HELD:
                raise NoCapacity(f"body: a project may have {HELD} bytes of pushes under way", field="body")
            upload.hash.update(chunk)
            upload.size += len(chunk)
            self.held += len(chunk)
            yield chunk


class RegistryEngine:
    """Take parts, keep them for a while, and make images of them."""

    def __init__(self, images: ImagesEngine, host: Host, clock: Callable[[], datetime]) -> None:
        self._images = images
        self._host = host
        self._clock = clock
        self._shelves: dict[ProjectId, Shelf] = {}
        self._timer: asyncio.TimerHandle | None = None

    def _shelf(self, principal: Principal) -> Shelf:
        return self._shelves.setdefault(principal.project, Shelf())

    # -- parts on their way ------------------------------------------------------------------------------------------

    def begin(self, principal: Principal, name: str) -> str:
        """A new upload's id. :raise Busy: the project has too many."""
        require(principal, Action.IMAGE_CREATE)
        shelf = self._shelf(principal)
        if len(shelf.uploads) >= _MOST_UPLOADS or len(shelf.parts) >= _MOST_PARTS:
            raise Busy("upload: this project has too many under way", field="upload")
        id = mint()
        upload = Upload(id, name, self._images.uploads / id, self._clock())
        upload.path.open("xb").close()
        shelf.uploads[id] = upload
        self._wake()
        return id

    def arrived(self, principal: Principal, name: str, id: str) -> int:
        """How many bytes of an upload are here. :raise NotFound:"""
        return self._upload(principal, name, id).size

    def _upload(self, principal: Principal, name: str, id: str) -> Upload:
        require(principal, Action.IMAGE_CREATE)
        upload = self._shelf(principal).uploads.get(id)
        if upload is None or upload.name != name:
            raise NotFound(f"upload: there is none called {id[:64]!r}", field="upload")
        if upload.busy:
            raise Busy("upload: somebody else is sending it", field="upload")
        return upload

    async def append(
        self, principal: Principal, name: str, id: str, chunks: AsyncIterator[bytes], length: int, start: int | None
    ) -> int:
        """More of an upload; the size that it has then. One that is cut off must be begun anew.

        `length` is the announced one or 0, `start` where the caller thinks it goes on.
        :raise Invalid: it goes on elsewhere, or is too large. :raise NotFound, Busy, NoCapacity:
        """
        upload = self._upload(principal, name, id)
        if start is not None and start != upload.size:
            raise Invalid(f"range: the upload goes on at {upload.size}", field="range")
        shelf = self._shelf(principal)
        upload.busy = True
        try:
            most = LIMIT - upload.size
            await self._images.receive(upload.path, shelf.counted(upload, chunks), most, length, more=True)
        except BaseException:
            shelf.drop(upload)
            raise
        finally:
            upload.busy, upload.used = False, self._clock()
        return upload.size

    async def finish(  # noqa: PLR0913 - as `append`
        self, principal: Principal, name: str, id: str, digest: str, chunks: AsyncIterator[bytes], length: int,
        start: int | None = None,
    ) -> None:  # fmt: skip
        """The end of an upload. It is a part now. :raise Invalid: its digest is another; nothing of it is left."""
        wanted = parse_digest(digest)
        await self.append(principal, name, id, chunks, length, start)
        shelf, upload = self._shelf(principal), self._upload(principal, name, id)
        if f"sha256:{upload.hash.hexdigest()}" != wanted:
            shelf.drop(upload)
            raise Invalid("digest: what was sent has another", field="digest")
        if wanted in shelf.parts:
            shelf.parts[wanted].used = upload.used
            shelf.drop(upload)
            return
        del shelf.uploads[id]
        shelf.parts[wanted] = Part(upload.path, upload.size, upload.used)

    def cancel(self, principal: Principal, name: str, id: str) -> None:
        """Nothing of an upload is left. :raise NotFound, Busy:"""
        self._shelf(principal).drop(self._upload(principal, name, id))

    # -- parts and manifests -----------------------------------------------------------------------------------------

    def has(self, principal: Principal, digest: str) -> int:
        """The size of a part that is here. :raise NotFound: :raise Invalid: that is no digest."""
        return self._part(principal, parse_digest(digest)).size

    def open(self, principal: Principal, digest: str) -> tuple[BinaryIO, int]:
        """A part for reading, and its size. :raise NotFound: :raise Invalid:"""
        part = self._part(principal, parse_digest(digest))
        return part.path.open("rb"), part.size

    def _part(self, principal: Principal, digest: Digest) -> Part:
        require(principal, Action.IMAGE_VIEW)
        part = self._shelf(principal).parts.get(digest)
        if part is None:
            raise NotFound(f"blob: {digest} is not here", field="blob")
        part.used = self._clock()
        return part

    def manifest(self, principal: Principal, name: str, ref: str) -> tuple[Digest, str, bytes]:
        """The digest, type and text of a manifest, by its tag or digest. :raise NotFound:"""
        require(principal, Action.IMAGE_VIEW)
        shelf = self._shelf(principal)
        digest = parse_digest(ref) if ":" in ref else shelf.tags.get((name, ref), Digest(""))
        part = shelf.parts.get(digest)
        if part is None or not part.media:
            raise NotFound(f"manifest: there is no {name}:{ref} here", field="manifest")
        part.used = self._clock()
        return digest, part.media, part.path.read_bytes()

    async def put(self, principal: Principal, name: str, ref: str, data: bytes, media: str, called: str) -> Digest:
        """A manifest whose parts are all here. Named by a tag, it becomes the image `called`; that goes on by itself.

        :raise Invalid: it is malformed, its digest is another, or a part is not here. :raise Exists: a built-in's name.
        :raise Unsupported: an index with nothing for this host.
        """
        require(principal, Action.IMAGE_CREATE)
        digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
        if ":" in ref and parse_digest(ref) != digest:
            raise Invalid("digest: the manifest has another", field="digest")
        if called and parse_reference(called).short in BUILT_IN:
            raise Exists(f"name: {called} is a built-in image", field="name")
        made_of, raw, media = await self._read(principal, data, media)
        shelf = self._shelf(principal)
        self._shelve(shelf, digest, data, media)
        if called:
            shelf.tags.pop((name, ref), None)
            shelf.tags[name, ref] = digest
            while len(shelf.tags) > _MOST_TAGS:
                shelf.tags.pop(next(iter(shelf.tags)))
            place = self._lay_out(shelf, raw, made_of)
            self._images.assemble(principal, called, place, "sha256:" + hashlib.sha256(raw).hexdigest())
        return digest

    async def _read(self, principal: Principal, data: bytes, media: str) -> tuple[list[Digest], bytes, str]:
        """The parts and the text of the manifest that is for this host, and the type of what was sent."""
        try:
            contents = await self._host.images.contents(data)
            kind = media or contents.media or (_INDEX if contents.chosen else _MANIFEST)
            if contents.media and media and contents.media != media:
                raise Invalid(f"it says that it is {contents.media[:80]!r}, and the request that it is {media[:80]!r}")
            if contents.chosen is not None:
                data = self._chosen(principal, contents.chosen)
                contents = await self._host.images.contents(data)
        except Invalid as fault:
            if fault.field == "blob":
                raise
            raise Invalid(f"manifest: {fault.public.removeprefix('image: ')}", field="manifest") from fault
        except Unsupported as fault:
            raise Unsupported(f"manifest: {fault.public.removeprefix('image: ')}", field="manifest") from fault
        if contents.chosen is not None:
            raise Invalid("manifest: an index of indexes", field="manifest")
        for digest, size in contents.parts.items():
            self._check(principal, digest, size)
        return list(contents.parts), data, kind

    def _chosen(self, principal: Principal, digest: Digest) -> bytes:
        try:
            return self.manifest(principal, "", digest)[2]
        except NotFound as fault:
            raise Invalid(f"blob: the index names {digest}, which is not here", field="blob") from fault

    def _check(self, principal: Principal, digest: Digest, size: int) -> None:
        try:
            found = self._part(principal, digest)
        except NotFound as fault:
            raise Invalid(f"blob: the manifest names {digest}, which is not here", field="blob") from fault
        if found.size != size:
            raise Invalid(f"manifest: {digest} has {found.size} bytes, not {size}", field="manifest")

    def _shelve(self, shelf: Shelf, digest: Digest, data: bytes, media: str) -> None:
        if digest in shelf.parts:
            shelf.parts[digest].used, shelf.parts[digest].media = self._clock(), media
            return
        if shelf.held + len(data) > HELD or len(shelf.parts) >= _MOST_PARTS:
            raise NoCapacity("body: this project has too much of pushes under way", field="body")
        path = self._images.uploads / mint()
        try:
            with needing_room():
                path.write_bytes(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        shelf.parts[digest] = Part(path, len(data), self._clock(), media)
        shelf.held += len(data)
        self._wake()

    def _lay_out(self, shelf: Shelf, manifest: bytes, parts: list[Digest]) -> Path:
        """A folder as `Images.import_parts` wants it. Links: the shelf may forget its own meanwhile."""
        place = self._images.uploads / mint()
        try:
            with needing_room():
                place.mkdir(mode=0o700)
                for digest in parts:
                    (place / digest.removeprefix("sha256:")).hardlink_to(shelf.parts[digest].path)
                (place / "manifest.json").write_bytes(manifest)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return place

    # -- what nobody asks for ----------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """See that the shelves are looked through, while there is something on them."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEPT.total_seconds() / 4, self._look)

    def _look(self) -> None:
        self._timer = None
        with suppress(OSError):  # the next look may do better
            self.sweep()
        if any(shelf.held or shelf.uploads for shelf in self._shelves.values()):
            self._wake()

    def sweep(self) -> None:
        """What was not used for an hour is gone."""
        before = self._clock() - KEPT
        for shelf in self._shelves.values():
            for upload in [one for one in shelf.uploads.values() if not one.busy and one.used < before]:
                shelf.drop(upload)
            for digest in [digest for digest, part in shelf.parts.items() if part.used < before]:
                shelf.remove(digest)
            for tag in [tag for tag, digest in shelf.tags.items() if digest not in shelf.parts]:
                del shelf.tags[tag]
