"""Images: what a name means to a project, and getting it onto the host with its progress told."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from polyvisor.access.grants import require, require_operator
from polyvisor.model.event import Event
from polyvisor.model.faults import Busy, Exists, Fault, Invalid, NoCapacity, NotFound
from polyvisor.model.ids import ProjectId, mint
from polyvisor.model.image import Image, ImageSource, parse_reference
from polyvisor.model.principal import Action, Principal
from polyvisor.model.snapshot import SnapshotState
from polyvisor.model.units import MIB
from polyvisor.ports.host import Host
from polyvisor.ports.images import Progress
from polyvisor.ports.store import Store, Unit

BUILT_IN = ("busybox", "debian-12", "standard", "image-builder")
OPERATORS = ProjectId("")  # images of this owner may be used by every project
RESERVE = 512 * MIB
"""What uploads leave free on the disk: machines and records live there too."""
_LOOK_EVERY = 32 * MIB


_FAILURES = 100  # that are told of until they are tried again, or the server is started anew


@dataclass(slots=True)
class Pull:
    """A fetch under way: the latest progress, and the image or fault at its end. `error` says why it failed."""

    task: asyncio.Task[Image]
    began: datetime
    text: str = ""
    fraction: float | None = None
    error: str = ""
    digest: str = ""  # where it is known before the end


class ImagesEngine:
    """Resolve, pull, import, list, delete."""

    def __init__(self, store: Store, host: Host, clock: Callable[[], datetime], uploads: Path) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self.uploads = uploads
        self._files = asyncio.Lock()  # between a record and its file no deletion may come
        self._pulls: dict[tuple[ProjectId, bool, str], Pull] = {}
        self._failed: dict[tuple[ProjectId, str], Pull] = {}
        self._promised = 0  # bytes that uploads under way have announced and not yet sent

    async def resolve(self, principal: Principal, name: str) -> Image:
        """The image that `name` means to this caller; a built-in or a registry's is fetched if it is not here.

        :raise NotFound: naming `image`. :raise Invalid, Upstream:
        """
        try:
            return await self.get(principal, name)
        except NotFound:
            return await asyncio.shield((await self.pull(principal, name)).task)  # others may wait for it too

    async def get(self, principal: Principal, name: str) -> Image:
        """An image that is here. :raise NotFound:"""
        require(principal, Action.IMAGE_VIEW)
        wanted = name if name.startswith("sha256:") else str(parse_reference(name))
        async with self._store.read() as unit:
            try:
                return await unit.images.find(wanted, principal.project)
            except NotFound as error:
                raise NotFound(f"image: no image {name[:120]!r}", field="image", subject=name) from error

    async def pull(self, principal: Principal, name: str) -> Pull:
        """Begin to fetch, or join a fetch under way. It goes on when the caller does not wait."""
        require(principal, Action.IMAGE_CREATE)
        if name.startswith("sha256:"):
            raise NotFound(f"image: no image {name[:120]!r}, and a digest alone names no registry", field="image")
        reference = str(parse_reference(name))
        own = self._pulls.get((principal.project, principal.operator, reference))
        if own is not None and not own.task.done():
            return own  # it was vetted when it began, or is pushed and so in no registry
        full = await self._host.images.vet(name, trusted=principal.operator)
        owner = OPERATORS if full in BUILT_IN else principal.project
        found = self._pulls.get((owner, principal.operator, reference))
        if found is None or found.task.done():

            async def fetch(progress: Progress) -> Image:
                return await self._host.images.pull(full, progress, trusted=principal.operator)

            found = self._begin((owner, principal.operator, reference), fetch)
        return found

    async def provide(self, principal: Principal, name: str, source: ImageSource) -> Image:
        """An image of the operator's settings, for every project; fetched when it is asked for first.

        :raise Upstream: it cannot be had, or is not what its checksum says. :raise Invalid, NoCapacity:
        """
        require(principal, Action.IMAGE_VIEW)
        called = str(parse_reference(name))
        key = (OPERATORS, True, called)
        pull = self._pulls.get(key)
        if pull is None or pull.task.done():

            async def fetch(progress: Progress) -> Image:
                return await self._host.images.provide(source, name, progress)

            pull = self._begin(key, fetch)
        return await asyncio.shield(pull.task)

    def assemble(self, principal: Principal, name: str, place: Path, digest: str) -> Pull:
        """Begin to make the image in `place` (see `Images.import_parts`), which is removed at the end.

        It takes its turn after what is under way for that name, so the last to come has it.
        """
        require(principal, Action.IMAGE_CREATE)
        called = str(parse_reference(name))
        before = [pull.task for key, pull in self._pulls.items() if key[::2] == (principal.project, called)]

        async def make(progress: Progress) -> Image:
            if before:
                await asyncio.wait(before)
            return await self._host.images.import_parts(place, called, progress)

        pull = self._begin((principal.project, principal.operator, called), make)
        pull.digest = digest
        pull.task.add_done_callback(lambda _: shutil.rmtree(place, ignore_errors=True))
        return pull

    def _begin(self, key: tuple[ProjectId, bool, str], work: Callable[[Progress], Awaitable[Image]]) -> Pull:
        owner, _, called = key
        pull = Pull(None, self._clock())  # type: ignore[arg-type]  # the task needs the pull it reports to
        self._failed.pop((owner, called), None)

        def progress(text: str, fraction: float | None) -> None:
            pull.text, pull.fraction = text, fraction

        async def fetch() -> Image:
            while True:
                image = await work(progress)
                if (recorded := await self._record(image, owner, called)) is not None:
                    return recorded

        def over(task: asyncio.Task[Image]) -> None:
            if self._pulls.get(key) is pull:
                del self._pulls[key]
            error = None if task.cancelled() else task.exception()  # no surprise to the event loop
            if error is not None:
                pull.error = error.public if isinstance(error, Fault) else "something went wrong on our side"
                self._failed[owner, called] = pull
                while len(self._failed) > _FAILURES:
                    self._failed.pop(next(iter(self._failed)))

        pull.task = asyncio.create_task(fetch(), name=f"pull {called}")
        pull.task.add_done_callback(over)
        self._pulls[key] = pull
        return pull

    def fetching(self, principal: Principal) -> dict[str, Pull]:
        """Fetches under way for the caller's project or for everybody, and those that failed lately, by name."""
        require(principal, Action.IMAGE_VIEW)
        seen = (OPERATORS, principal.project)
        failed = {name: pull for (owner, name), pull in self._failed.items() if owner in seen}
        return failed | {name: pull for (owner, _, name), pull in self._pulls.items() if owner in seen}

    def forget(self, principal: Principal, name: str) -> bool:
        """A fetch of that name that failed is told of no more; whether there was one."""
        require(principal, Action.IMAGE_DELETE)
        return self._failed.pop((principal.project, str(parse_reference(name))), None) is not None

    async def name(self, principal: Principal, image: Image, name: str) -> None:
        """Another name for an image that the caller has found; what had that name before has it no more."""
        require(principal, Action.IMAGE_CREATE)
        reference = parse_reference(name)
        if reference.short in BUILT_IN and not reference.registry:
            raise Exists(f"name: {reference.short} is a built-in image", field="name")
        async with self._files, self._store.write() as unit:
            now = await unit.images.find(image.id, principal.project)
            await unit.images.put(replace(now, names=(*now.names, str(reference))), principal.project)

    async def unname(self, principal: Principal, name: str) -> None:
        """The image is not called so any more. With its last name it goes: see `delete`.

        :raise NotFound: :raise Busy: it is used, and has no other name. :raise Forbidden: the name is the operator's.
        """
        require(principal, Action.IMAGE_DELETE)
        image = await self.get(principal, name)
        called = "" if name.startswith("sha256:") else str(parse_reference(name))
        left = [other for other in image.names if other != called]
        if not called or not left:
            await self.delete(principal, name)
            return
        async with self._files, self._store.write() as unit:
            shared = [n for i in await unit.images.all(OPERATORS) if i.id == image.id for n in i.names]
            if called in shared:
                require_operator(principal)
                await unit.images.put(replace(image, names=tuple(n for n in shared if n != called)), OPERATORS)
            else:
                own = tuple(n for n in left if n not in shared)
                await unit.images.put(replace(image, names=own), principal.project)

    async def _record(self, image: Image, owner: ProjectId, name: str) -> Image | None:
        """Give the image its name; None: it was deleted since it was fetched."""
        named = replace(image, names=(name,))
        async with self._files:
            try:
                await self._host.images.path(image.id)
            except NotFound:
                return None
            async with self._store.write() as unit:
                if any(known.id == image.id and name in known.names for known in await unit.images.all(owner)):
                    return named  # provided before
                await unit.images.put(named, owner)
                data = {"name": name, "size": str(image.size)}
                await unit.events.append(Event("image.ready", owner, image.id, self._clock(), data))
        return named

    async def take(
        self, principal: Principal, name: str, chunks: AsyncIterator[bytes], limit: int, length: int = 0
    ) -> Image:
        """Import an uploaded archive or disk under `name`; `length` is its announced size, 0 where there is none.

        :raise Invalid: it is none, or hostile. :raise NoCapacity: the disk has no room for it.
        """
        require(principal, Action.IMAGE_CREATE)
        reference = parse_reference(name)
        if reference.short in BUILT_IN and not reference.registry:
            raise Exists(f"name: {reference.short} is a built-in image", field="name")
        part = self.uploads / mint()
        try:
            await self.receive(part, chunks, limit, length)
            image = await self._host.images.import_archive(part, str(reference), lambda text, fraction: None)
            recorded = await self._record(image, principal.project, str(reference))
            if recorded is None:
                raise Busy("image: it was deleted while it was imported", field="image", subject=image.id)
            return recorded
        finally:
            part.unlink(missing_ok=True)

    async def receive(
        self, part: Path, chunks: AsyncIterator[bytes], limit: int, length: int, *, more: bool = False
    ) -> None:
        """Write an upload into a file of the uploads' folder, or `more` of it.

        :raise Invalid: it is too large. :raise NoCapacity:
        """
        size, looked, left = 0, 0, max(0, length)
        self._check_room(left)
        self._promised += left
        try:
            with needing_room(), part.open("ab" if more else "xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > limit:
                        raise Invalid(f"the upload is larger than {limit} bytes", field="body")
                    if size - looked >= _LOOK_EVERY:
                        self._check_room(0)
                        looked = size
                    await asyncio.to_thread(file.write, chunk)
                    came = min(left, len(chunk))
                    left, self._promised = left - came, self._promised - came
        finally:
            self._promised -= left

    def _check_room(self, more: int) -> None:
        """:raise NoCapacity: `more` bytes would leave too little."""
        if shutil.disk_usage(self.uploads).free < self._promised + more + RESERVE:
            raise NoCapacity("body: the disk of this host has no room for it", field="body")

    async def list(self, principal: Principal) -> Sequence[Image]:
        """Those the caller may use."""
        require(principal, Action.IMAGE_VIEW)
        async with self._store.read() as unit:
            return await unit.images.all(None if principal.operator else principal.project)

    async def delete(self, principal: Principal, name: str) -> None:
        """:raise Busy: an instance is made from it, or a snapshot needs it. :raise NotFound:"""
        require(principal, Action.IMAGE_DELETE)
        image = await self.get(principal, name)
        async with self._files:
            async with self._store.write() as unit:
                if not principal.operator:
                    await self._require_sole_owner(unit, principal, image)
                if await unit.instances.using(image.id):
                    raise Busy("image: instances are made from it", field="image", subject=image.id)
                if await unit.snapshots.using(image.id):
                    raise Busy("image: snapshots need it", field="image", subject=image.id)
                for template in await unit.snapshots.templates(image.id):  # they go with it, by the keeper
                    await unit.snapshots.save(template.id, SnapshotState.DELETING, template.size)
                await unit.images.forget(image.id)
            await self._host.images.remove(image.id)

    async def _require_sole_owner(self, unit: Unit, principal: Principal, image: Image) -> None:
        """:raise Forbidden: it is the operator's. :raise Busy: another project has it as well."""
        if any(i.id == image.id for i in await unit.images.all(OPERATORS)):
            require_operator(principal)
        others = [p.id for p in await unit.identities.projects() if p.id != principal.project]
        for other in others:
            if any(i.id == image.id for i in await unit.images.all(other)):
                raise Busy("image: another project uses it too", field="image", subject=image.id)


@contextmanager
def needing_room() -> Iterator[None]:
    """:raise NoCapacity: instead of the error of a write that found no room."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoCapacity("body: the disk of this host is full", field="body", private=str(error)) from error
        raise
