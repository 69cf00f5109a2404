"""`LocalImages`: the images port on this machine. Wires the parts; each part says in its own file what it refuses."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakValueDictionary

from polyvisor.host.images import builder, busybox, debian, disks, fetch, outward, ova, provided, standard
from polyvisor.host.images.addresses import addresses, is_public, split
from polyvisor.host.images.bounds import Bounds
from polyvisor.host.images.catalog import FILES, Catalog, settle
from polyvisor.host.images.documents import architecture, contents
from polyvisor.host.images.room import needing_room
from polyvisor.host.images.sniff import Form, sniff, sniff_disk
from polyvisor.host.images.squash import flatten, squash
from polyvisor.host.images.threads import in_thread
from polyvisor.host.run import proxies
from polyvisor.model.appliance import Appliance, Part
from polyvisor.model.faults import Exists, Forbidden, Invalid, NotFound, Unsupported
from polyvisor.model.ids import Digest
from polyvisor.model.image import (
    Image,
    ImageConfig,
    ImageKind,
    ImageSource,
    ImageState,
    Reference,
    parse_digest,
    parse_reference,
)
from polyvisor.model.push import Login, Sent
from polyvisor.model.units import Bytes
from polyvisor.ports.images import Contents, Progress

BUILT_IN = (busybox.NAME, debian.NAME, standard.NAME, builder.NAME)
DOWNLOADS = 8
"""Fetches at one time; others wait."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`default_registry` is `host[/namespace]`; `registries`, when there are any, are the only ones pulled from.

    As many images are unpacked or rewritten at one time as there are `uids`; each then has one that nobody else uses.
    """

    default_registry: str = ""
    registries: frozenset[str] = frozenset()
    bounds: Bounds = field(default_factory=Bounds)
    uids: Sequence[int] = range(1_200_000, 1_200_002)  # next to those of the machines

    def vouch(self, registry: str) -> bool:
        """Whether the operator named it, so that its address is his business."""
        return registry in self.registries or registry == self.default_registry.partition("/")[0]


class _Flight:
    """One fetch or build under way, and all who wait for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.digest = Digest("")
        self.text = "waiting"
        self.fraction: float | None = None
        self.started = datetime.now(UTC)
        self.listeners: list[Progress] = []
        self.task: asyncio.Task[Image] | None = None

    def tell(self, text: str, fraction: float | None) -> None:
        self.text, self.fraction = text, fraction
        for listener in list(self.listeners):
            listener(text, fraction)

    def shown(self) -> Image:
        return Image(
            id=self.digest,
            names=(self.name,),
            kind=ImageKind.DISK if self.name == debian.NAME else ImageKind.ROOT,
            state=ImageState.PULLING,
            created=self.started,
            progress=self.text,
            fraction=self.fraction,
        )


class LocalImages:
    """Images under `root`, a directory of our own. What is half-made there is removed when this is made."""

    def __init__(self, root: Path, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._catalog = Catalog(root)
        self._arch = architecture()
        self._flights: dict[str, _Flight] = {}
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()
        self._downloads = asyncio.Semaphore(DOWNLOADS)
        self._uids: asyncio.Queue[int] = asyncio.Queue()
        for uid in self._settings.uids:
            self._uids.put_nowait(uid)

    async def pull(self, reference: str, progress: Progress, *, trusted: bool = False) -> Image:
        """See `ports.images.Images.pull`."""
        if reference.startswith("sha256:"):
            return self._catalog.get(parse_digest(reference))
        # A name is always asked for at its registry: here it may be what someone called an archive of his own.
        name = await self.vet(reference, trusted=trusted)
        if name in BUILT_IN:
            return await self.build(name, progress)
        full = parse_reference(name)
        walled = not trusted and not self._settings.vouch(full.registry)
        return await self._share(name, reference, progress, lambda flight: self._pull(full, reference, walled, flight))

    async def vet(self, reference: str, *, trusted: bool) -> str:
        """See `ports.images.Images.vet`."""
        short = parse_reference(reference)
        if not short.registry and short.short in BUILT_IN:
            return short.short
        full = parse_reference(reference, self._settings.default_registry)
        if not full.registry:
            raise NotFound(
                f"image: there is no image {short.short!r} here, and no default registry is configured to look in",
                field="image",
                subject=reference,
            )
        if self._settings.vouch(full.registry) or (trusted and not self._settings.registries):
            return str(full)
        if self._settings.registries or not await _leads_out(full.registry):
            raise Forbidden(f"images may not be pulled from {full.registry}", field="image")
        return str(full)

    async def vet_target(self, reference: str, *, trusted: bool, insecure: bool) -> str:
        """See `ports.images.Images.vet_target`."""
        found = parse_reference(reference, field="target")
        if not found.registry:
            raise Invalid("target: must name a registry", field="target")
        if found.digest:
            raise Invalid("target: must be a name with a tag, not a digest", field="target")
        vouched = self._settings.vouch(found.registry) or (trusted and not self._settings.registries)
        if insecure and not vouched:
            raise Invalid("insecure: only for registries that the operator names", field="insecure")
        if not vouched and (self._settings.registries or not await _leads_out(found.registry)):
            raise Forbidden(f"images may not be pushed to {found.registry}", field="target")
        return str(found)

    async def push(self, digest: Digest, target: str, *, trusted: bool, insecure: bool, login: Login | None) -> Sent:
        """See `ports.images.Images.push`."""
        image = self._catalog.get(parse_digest(digest))
        if image.kind is not ImageKind.ROOT:
            raise Unsupported("image: a disk image cannot be pushed", field="image")
        name = parse_reference(await self.vet_target(target, trusted=trusted, insecure=insecure))
        walled = not trusted and not self._settings.vouch(name.registry)
        plain = insecure or (name.loopback and not walled)
        async with self._downloads, self._work() as work:
            way = fetch.Way(work, self._arch, walled)
            squashfs = self._catalog.path(image.id)
            return await outward.send(image, squashfs, name, way, plain=plain, login=login)

    @asynccontextmanager
    async def archived(self, digest: Digest) -> AsyncIterator[Path]:
        """See `ports.images.Images.archived`."""
        image = self._catalog.get(parse_digest(digest))
        if image.kind is not ImageKind.ROOT:
            raise Unsupported("image: a disk has no layers", field="image")
        async with self._work() as work:
            yield await in_thread(outward.archive, image, self._catalog.path(image.id), work, self._arch)

    async def _share(
        self, key: str, name: str, progress: Progress, work: Callable[[_Flight], Awaitable[Image]]
    ) -> Image:
        """Do `work` once for all who ask for `key` meanwhile; it goes on when one of them gives up."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(name)
            flight.task = asyncio.ensure_future(self._fly(key, flight, work))
            flight.task.add_done_callback(lambda task: task.cancelled() or task.exception())  # never "unretrieved"
        assert flight.task is not None  # set in the same breath as the flight
        flight.listeners.append(progress)
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.listeners.remove(progress)

    async def _fly(self, key: str, flight: _Flight, work: Callable[[_Flight], Awaitable[Image]]) -> Image:
        try:
            return await work(flight)
        finally:
            del self._flights[key]

    @asynccontextmanager
    async def _work(self) -> AsyncIterator[Path]:
        """A directory for half-made things; gone afterwards, whatever happened."""
        with needing_room():
            work = self._catalog.work()
            try:
                yield work
            finally:
                await in_thread(shutil.rmtree, work, ignore_errors=True)

    @asynccontextmanager
    async def _turn(self, progress: Progress) -> AsyncIterator[int | None]:
        """Wait until another image may be worked on; the uid to do it as, where we are root."""
        if self._uids.empty():
            progress("waiting for other images", None)
        uid = await self._uids.get()
        try:
            yield uid if os.geteuid() == 0 else None
        finally:
            self._uids.put_nowait(uid)

    async def _pull(self, reference: Reference, name: str, walled: bool, flight: _Flight) -> Image:
        async with self._downloads, self._work() as work:
            flight.tell("asking the registry", None)
            way = fetch.Way(work, self._arch, walled)
            digest = flight.digest = await fetch.resolve(reference, way)
            lock = self._locks.setdefault(digest, asyncio.Lock())  # the same image may come under another name
            async with lock:
                if not self._catalog.find(digest):
                    exact = Reference(reference.registry, reference.repository, "", digest)
                    place = await fetch.download(exact, way, self._settings.bounds, flight.tell)
                    async with self._turn(flight.tell):
                        image, made = await self._root(place, work, flight.tell)
                    if image.id != digest:
                        raise Invalid("image: the registry sent another image than it announced", field="image")
                    await self._admit(image, made, reference.short)
                for known in dict.fromkeys((reference.short, parse_reference(name).short)):
                    self._catalog.name(digest, known)
        flight.tell("ready", 1.0)
        return self._catalog.get(digest)

    async def _root(self, place: Path, work: Path, progress: Progress) -> tuple[Image, Path]:
        """The squashfs of an image that was fetched into `place`."""
        bounds = self._settings.bounds
        fetched = await fetch.open_layers(place, work, self._arch, bounds, progress)
        made = await self._squash(fetched.layers, work, progress)
        return _image(fetched.digest, ImageKind.ROOT, made.stat().st_size, fetched.config.image), made

    async def _squash(self, layers: Sequence[Path], work: Path, progress: Progress) -> Path:
        made = work / FILES[ImageKind.ROOT]
        progress("reading the layers", None)
        tree = await in_thread(flatten, layers, self._settings.bounds)
        progress("writing the root file system", None)
        await squash(tree, layers, made, self._settings.bounds)
        return made

    async def import_archive(self, path: Path, name: str, progress: Progress) -> Image:
        """See `ports.images.Images.import_archive`."""
        short = parse_reference(name, field="name").short
        if short in BUILT_IN:
            raise Exists(f"{short!r} is the name of a built-in image", field="name")
        return await self._import(path, short, progress)

    async def provide(self, source: ImageSource, name: str, progress: Progress) -> Image:
        """See `ports.images.Images.provide`."""
        recipe = f"provided:{source.sha256}"
        known = self._catalog.made_by(recipe)
        if known:
            return self._catalog.get(known.id)

        async def make(flight: _Flight) -> Image:
            async with self._downloads, self._work() as work:
                flight.tell("fetching", None)
                file = await provided.fetch(source, name, work / "provided", self._settings.bounds)
                return await self._import(file, name, flight.tell, recipe)

        return await self._share(recipe, name, progress, make)

    async def _import(self, path: Path, short: str, progress: Progress, recipe: str = "") -> Image:
        async with self._turn(progress) as uid, self._work() as work:
            form = await in_thread(sniff, path)
            if form is Form.GZIP:
                progress("unpacking the archive", None)
                plain = work / "plain"
                await in_thread(fetch.inflate, path, plain, self._settings.bounds.content)
                path, form = plain, await in_thread(sniff, plain)
            if form in (Form.QCOW2, Form.RAW):
                image, made = await self._disk(path, form, work, uid, progress)
            elif form is Form.GZIP:
                raise Invalid("image: packed more than once", field="image")
            else:
                way = fetch.Way(work, self._arch)
                place = await fetch.unpack(form.value, path, way, self._settings.bounds, progress)
                image, made = await self._root(place, work, progress)
            admitted = await self._admit(image, made, short, recipe)
            progress("ready", 1.0)
            return admitted

    async def disk_size(self, path: Path, length: int, at: int = 0) -> Bytes:
        """See `ports.images.Images.disk_size`."""
        form = await in_thread(sniff_disk, path, at)
        return Bytes(await in_thread(disks.virtual_size, path, length, form, self._settings.bounds, at))

    @asynccontextmanager
    async def unpacked(self, path: Path, length: int, at: int = 0) -> AsyncIterator[Path]:
        """See `ports.images.Images.unpacked`."""
        async with self._turn(lambda text, fraction: None) as uid, self._work() as work:
            form = await in_thread(sniff_disk, path, at)
            jail = work / "jail"
            jail.mkdir(mode=0o700)
            yield await disks.unpack(path, Part(at, length), form, jail, self._settings.bounds, uid=uid)

    async def appliance(self, path: Path, length: int) -> Appliance | None:
        """See `ports.images.Images.appliance`."""
        return await in_thread(ova.read, path, length) if await in_thread(ova.is_tar, path) else None

    @asynccontextmanager
    async def packed(self, files: Sequence[Path], about: Appliance | None) -> AsyncIterator[Path]:
        """See `ports.images.Images.packed`."""
        async with self._work() as work:
            if about is None:
                yield await disks.pack(files[0], Form.QCOW2, work, "out")
                return
            made = [await disks.pack(disk, Form.VMDK, work, f"disk{n}") for n, disk in enumerate(files)]
            out = work / "out"
            sizes = [disk.stat().st_size for disk in files]
            await in_thread(ova.write, out, about, list(zip(made, sizes, strict=True)))
            yield out

    async def contents(self, manifest: bytes) -> Contents:
        """See `ports.images.Images.contents`."""
        return contents(manifest, self._settings.bounds, self._arch)

    async def import_parts(self, place: Path, name: str, progress: Progress) -> Image:
        """See `ports.images.Images.import_parts`."""
        short = parse_reference(name, field="name").short
        if short in BUILT_IN:
            raise Exists(f"{short!r} is the name of a built-in image", field="name")
        digest = await in_thread(disks.digest, place / "manifest.json")
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            if not self._catalog.find(digest):
                async with self._turn(progress), self._work() as work:
                    image, made = await self._root(place, work, progress)
                    await self._admit(image, made, short)
            self._catalog.name(digest, short)
        progress("ready", 1.0)
        return self._catalog.get(digest)

    async def _disk(
        self, path: Path, form: Form, work: Path, uid: int | None, progress: Progress
    ) -> tuple[Image, Path]:
        jail = work / "jail"
        jail.mkdir(mode=0o700)
        disk = await disks.convert(path, form, jail, self._settings.bounds, progress, uid=uid)
        return _image(disk.digest, ImageKind.DISK, disk.virtual_size), disk.path

    async def _admit(self, image: Image, made: Path, name: str, recipe: str = "") -> Image:
        await in_thread(settle, made)
        admitted = self._catalog.admit(image, made, recipe)
        self._catalog.name(image.id, name)
        return self._catalog.get(admitted.id)

    async def build(self, name: str, progress: Progress) -> Image:
        """See `ports.images.Images.build`."""
        if name not in BUILT_IN:
            raise NotFound(f"there is no built-in image {name!r}; there are {', '.join(BUILT_IN)}", subject=name)
        recipe, make = self._recipe(name)
        known = self._catalog.made_by(recipe)
        if known:
            self._catalog.name(known.id, name)
            return self._catalog.get(known.id)
        return await self._share(name, name, progress, lambda flight: make(recipe, flight.tell))

    def _recipe(self, name: str) -> tuple[str, Callable[[str, Progress], Awaitable[Image]]]:
        if name == busybox.NAME:
            return busybox.recipe(busybox.binary()), self._busybox
        if name == standard.NAME:
            return standard.recipe(), self._standard
        if name == builder.NAME:
            return builder.recipe(), self._builder
        return debian.recipe(), self._debian

    async def _busybox(self, recipe: str, progress: Progress) -> Image:
        async with self._work() as work:
            layer = work / "layer.tar"
            await busybox.layer(busybox.binary(), layer)
            made = await self._squash([layer], work, progress)
            return await self._made(made, busybox.NAME, busybox.CONFIG, recipe, progress)

    async def _standard(self, recipe: str, progress: Progress) -> Image:
        async with self._work() as work:
            made = await self._squash(await standard.layers(work, progress), work, progress)
            return await self._made(made, standard.NAME, standard.CONFIG, recipe, progress)

    async def _builder(self, recipe: str, progress: Progress) -> Image:
        async with self._work() as work:
            made = await self._squash(await builder.layers(work, progress), work, progress)
            return await self._made(made, builder.NAME, builder.CONFIG, recipe, progress)

    async def _made(self, made: Path, name: str, config: ImageConfig, recipe: str, progress: Progress) -> Image:
        digest = await in_thread(disks.digest, made)
        admitted = await self._admit(_image(digest, ImageKind.ROOT, made.stat().st_size, config), made, name, recipe)
        progress("ready", 1.0)
        return admitted

    async def _debian(self, recipe: str, progress: Progress) -> Image:
        def quietly(text: str, fraction: float | None) -> None:
            """What is left to do has no measure of its own."""

        async with self._work() as work:
            raw = await debian.build(work, progress)
            progress("writing the disk image", 0.94)
            async with self._turn(quietly) as uid:
                image, made = await self._disk(raw, Form.RAW, work, uid, quietly)
            admitted = await self._admit(image, made, debian.NAME, recipe)
            progress("ready", 1.0)
            return admitted

    async def remove(self, digest: Digest) -> None:
        """See `ports.images.Images.remove`."""
        doomed = self._catalog.detach(digest)
        if doomed is not None:
            await in_thread(shutil.rmtree, doomed, ignore_errors=True)

    async def path(self, digest: Digest) -> Path:
        """See `ports.images.Images.path`."""
        return self._catalog.path(parse_digest(digest))

    async def list(self) -> Sequence[Image]:
        """See `ports.images.Images.list`."""
        return [*self._catalog.all(), *(flight.shown() for flight in self._flights.values())]

    async def close(self) -> None:
        """Give up what is under way; nothing half-made is left."""
        tasks = [flight.task for flight in self._flights.values() if flight.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _leads_out(registry: str) -> bool:
    """Whether all that its name stands for is public. Behind a proxy a name may mean nothing here."""
    found = await addresses(*split(registry))
    return all(map(is_public, found)) and bool(found or proxies())


def _image(digest: Digest, kind: ImageKind, size: int, config: ImageConfig | None = None) -> Image:
    return Image(
        id=digest,
        names=(),
        kind=kind,
        state=ImageState.READY,
        created=datetime.now(UTC),
        virtual_size=Bytes(size),
        config=config or ImageConfig(),
    )
