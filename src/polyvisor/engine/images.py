"""Images: what a name means to a project, and getting it onto the host with its progress told."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from polyvisor.access.grants import require, require_operator, scope
from polyvisor.model.event import Event
from polyvisor.model.faults import Busy, Exists, Invalid, NoCapacity, NotFound
from polyvisor.model.ids import ProjectId, mint
from polyvisor.model.image import Image, parse_reference
from polyvisor.model.principal import Action, Principal
from polyvisor.model.units import MIB
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit

BUILT_IN = ("busybox", "debian-12")
OPERATORS = ProjectId("")  # images of this owner may be used by every project
RESERVE = 512 * MIB
"""What uploads leave free on the disk: machines and records live there too."""
_LOOK_EVERY = 32 * MIB


@dataclass(slots=True)
class Pull:
    """A fetch under way: the latest progress, and the image or fault at its end."""

    task: asyncio.Task[Image]
    text: str = ""
    fraction: float | None = None


class ImagesEngine:
    """Resolve, pull, import, list, delete."""

    def __init__(self, store: Store, host: Host, clock: Callable[[], datetime], uploads: Path) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self.uploads = uploads
        self._files = asyncio.Lock()  # between a record and its file no deletion may come
        self._pulls: dict[tuple[ProjectId, bool, str], Pull] = {}
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
        require(principal, Action.VIEW)
        wanted = name if name.startswith("sha256:") else str(parse_reference(name))
        async with self._store.read() as unit:
            try:
                return await unit.images.find(wanted, principal.project)
            except NotFound as error:
                raise NotFound(f"image: no image {name[:120]!r}", field="image", subject=name) from error

    async def pull(self, principal: Principal, name: str) -> Pull:
        """Begin to fetch, or join a fetch under way. It goes on when the caller does not wait."""
        require(principal, Action.CREATE)
        if name.startswith("sha256:"):
            raise NotFound(f"image: no image {name[:120]!r}, and a digest alone names no registry", field="image")
        reference = str(parse_reference(name))
        full = await self._host.images.vet(name, trusted=principal.operator)
        owner = OPERATORS if full in BUILT_IN else principal.project
        found = self._pulls.get((owner, principal.operator, reference))
        if found is None or found.task.done():
            found = self._begin(owner, reference, full, principal.operator)
        return found

    def _begin(self, owner: ProjectId, called: str, name: str, trusted: bool) -> Pull:
        key = (owner, trusted, called)
        pull = Pull(task=None)  # type: ignore[arg-type]  # the task needs the pull it reports to

        def progress(text: str, fraction: float | None) -> None:
            pull.text, pull.fraction = text, fraction

        async def fetch() -> Image:
            while True:
                image = await self._host.images.pull(name, progress, trusted=trusted)
                if (recorded := await self._record(image, owner, called)) is not None:
                    return recorded

        def over(task: asyncio.Task[Image]) -> None:
            if self._pulls.get(key) is pull:
                del self._pulls[key]
            if not task.cancelled():
                task.exception()  # one that nobody waits for is no surprise to the event loop

        pull.task = asyncio.create_task(fetch(), name=f"pull {name}")
        pull.task.add_done_callback(over)
        self._pulls[key] = pull
        return pull

    async def _record(self, image: Image, owner: ProjectId, name: str) -> Image | None:
        """Give the image its name; None: it was deleted since it was fetched."""
        named = replace(image, names=(name,))
        async with self._files:
            try:
                await self._host.images.path(image.id)
            except NotFound:
                return None
            async with self._store.write() as unit:
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
        require(principal, Action.CREATE)
        reference = parse_reference(name)
        if reference.short in BUILT_IN and not reference.registry:
            raise Exists(f"name: {reference.short} is a built-in image", field="name")
        part = self.uploads / mint()
        try:
            await self._receive(part, chunks, limit, length)
            image = await self._host.images.import_archive(part, str(reference), lambda text, fraction: None)
            recorded = await self._record(image, principal.project, str(reference))
            if recorded is None:
                raise Busy("image: it was deleted while it was imported", field="image", subject=image.id)
            return recorded
        finally:
            part.unlink(missing_ok=True)

    async def _receive(self, part: Path, chunks: AsyncIterator[bytes], limit: int, length: int) -> None:
        size, looked, left = 0, 0, max(0, length)
        self._check_room(left)
        self._promised += left
        try:
            with part.open("xb") as file:
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
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoCapacity("body: the disk of this host is full", field="body", private=str(error)) from error
            raise
        finally:
            self._promised -= left

    def _check_room(self, more: int) -> None:
        """:raise NoCapacity: `more` bytes would leave too little."""
        if shutil.disk_usage(self.uploads).free < self._promised + more + RESERVE:
            raise NoCapacity("body: the disk of this host has no room for it", field="body")

    async def list(self, principal: Principal) -> Sequence[Image]:
        """Those the caller may use."""
        require(principal, Action.VIEW)
        async with self._store.read() as unit:
            return await unit.images.all(scope(principal))

    async def delete(self, principal: Principal, name: str) -> None:
        """:raise Busy: an instance is made from it. :raise NotFound:"""
        require(principal, Action.DELETE)
        image = await self.get(principal, name)
        async with self._files:
            async with self._store.write() as unit:
                if not principal.operator:
                    await self._require_sole_owner(unit, principal, image)
                if await unit.instances.using(image.id):
                    raise Busy("image: instances are made from it", field="image", subject=image.id)
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
