"""One build, from its source to an image: in a machine of its own, by buildah, on a disk that its layers are kept on.

What the instructions do is done in there. Of what comes out only the archive of the image is taken, as any import is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from polyvisor.engine.images import ImagesEngine
from polyvisor.engine.streams import StreamsEngine
from polyvisor.engine.volumes import VolumesEngine
from polyvisor.engine.workshop import Workshop
from polyvisor.model.build import Build, BuildAsk
from polyvisor.model.faults import Fault, Forbidden, Invalid, NotFound, TimedOut, Upstream
from polyvisor.model.guest import Exec, Output
from polyvisor.model.ids import VolumeId
from polyvisor.model.image import Image, ImageKind, parse_reference
from polyvisor.model.instance import Instance, Mount
from polyvisor.model.principal import SYSTEM, Principal
from polyvisor.model.request import Create
from polyvisor.model.units import GIB, MIB, Bytes
from polyvisor.ports.guest import Guest
from polyvisor.ports.host import Host

log = logging.getLogger("polyvisor.engine")
IMAGE = "image-builder"
LARGEST = 32 * GIB
"""Of the archive of a finished image."""
SCRATCH = Bytes(20 * GIB)
"""The disk of a build that has no builder; what is not written takes no room."""
_DISK = Bytes(10 * GIB)
_STORE = "/var/lib/containers"
_CONTEXT, _SOURCE, _DOCKERFILE = "/build/context", "/build/source.tar.gz", "/build/Dockerfile"
_BASE, _RESULT, _TAG = "/build/base.tar", "/build/result.tar", "localhost/result"
_HUB = "docker.io"
_LONGEST_LINE = 4000


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be built. `bases` are the names in its instructions, `secrets` their values by their ids."""

    build: Build
    ask: BuildAsk
    source: Path
    dockerfile: str
    bases: Sequence[str]
    secrets: Mapping[str, str] = field(repr=False)
    volume: VolumeId | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told how it goes on: a line, the machine that it is made in, that the image is taken out."""

    line: Callable[[str], None]
    machine: Callable[[Instance], Awaitable[None]]
    pushing: Callable[[], Awaitable[None]]


class Works:
    """What builds are made with."""

    def __init__(
        self, host: Host, images: ImagesEngine, volumes: VolumesEngine, streams: StreamsEngine, workshop: Workshop
    ) -> None:
        self._host = host
        self._images = images
        self._volumes = volumes
        self._streams = streams
        self._workshop = workshop

    async def ready(self, principal: Principal) -> None:
        """The image that builds run in is here; the first time takes a while. :raise Unsupported: it cannot be made."""
        await asyncio.shield(
            (await self._images.pull(principal, IMAGE)).task
        )  # as this server makes it, not an older one

    async def make(self, principal: Principal, task: Task, told: Told) -> tuple[Image, str]:
        """The image, and the digest of the base image that was asked for. :raise Fault: why there is none."""
        bases = await self._bases(principal, task, told)
        pinned = task.ask.base
        if pinned and not any(image.id == pinned for _, image in bases):
            raise Invalid(f"base_image_digest: no image that this begins from is {pinned}", field="base_image_digest")
        used = pinned or next((image.id for _, image in bases), "")
        async with self._volume(principal, task) as volume:
            mounts = await self._volumes.resolve(principal, [Mount(volume, volume, _STORE)])
            wanted = Create(
                image=IMAGE, name=called(task.build), vcpus=task.ask.vcpus, memory=task.ask.memory, disk=_DISK,
                entrypoint=(), command=("sleep", "infinity"), mounts=mounts,
            )  # fmt: skip
            async with self._workshop.open(principal, wanted, told.machine) as instance:
                bench = _Bench(self._streams, self._host, instance, told)
                await bench.prepare(task)
                for name, image in bases:
                    await bench.give(name, image)
                await bench.build(task)
                await told.pushing()
                return await self._taken(bench, task), used

    async def clear(self, build: Build) -> None:
        """Nothing is left of a build that is not under way any more, but for its image."""
        await self._workshop.clear(build.project, called(build))
        try:
            await self._volumes.delete(SYSTEM.in_project(build.project), called(build))
        except NotFound:
            return
        except Fault as fault:
            log.warning("disk of build %s: %s", build.id, fault.public)

    @asynccontextmanager
    async def _volume(self, principal: Principal, task: Task) -> AsyncIterator[VolumeId]:
        if task.volume is not None:
            yield task.volume
            return
        yield (await self._volumes.create(principal, called(task.build), SCRATCH)).id  # `clear` takes it away

    async def _bases(self, principal: Principal, task: Task, told: Told) -> list[tuple[str, Image]]:
        """Those that this server has, or can have, by the name that the instructions find them by."""
        found = []
        for asked in task.bases:
            try:
                name, image = await self._base(principal, asked)
            except (NotFound, Forbidden, Upstream, TimedOut, Invalid) as fault:
                told.line(f"{asked}: not given by this server ({fault.public}); the builder looks for it itself")
                continue
            if image.kind is ImageKind.ROOT:
                found.append((name, image))
        return found

    async def _base(self, principal: Principal, asked: str) -> tuple[str, Image]:
        """What is called so here comes first, as everywhere; then what its registry has."""
        names = names_of(asked)
        for name in names:
            try:
                return names[-1], await self._images.get(principal, name)
            except NotFound:
                continue
        refused: Fault = NotFound(f"there is no image {asked[:120]}")
        for name in names:
            try:
                return names[-1], await self._images.resolve(principal, name)
            except NotFound as fault:
                refused = fault
        raise refused

    async def _taken(self, bench: _Bench, task: Task) -> Image:
        """The result, out of the guest and into the catalogue."""
        own = SYSTEM.in_project(task.build.project)
        guest = await bench.finished(task)
        return await self._images.take(own, task.build.image, guest.read_file(_RESULT), LARGEST)


def called(build: Build) -> str:
    """What the machine and the disk of a build are called."""
    return f"build-{build.id}"


def names_of(asked: str) -> tuple[str, ...]:
    """What an image of instructions may be called here; the last is its full name. :raise Invalid: it is none."""
    found = parse_reference(asked)
    if found.digest:  # what is given has another digest than its registry's
        raise NotFound("it is named by a digest")
    if found.registry and found.registry != _HUB:
        return (str(found),)
    short = f"{found.repository.removeprefix('library/')}:{found.tag}"
    return (short, f"{_HUB}/{short if '/' in short else f'library/{short}'}")


class _Bench:
    """The machine of a build, by what is done there."""

    def __init__(self, streams: StreamsEngine, host: Host, instance: Instance, told: Told) -> None:
        self._streams = streams
        self._host = host
        self._instance = instance
        self._told = told
        self._own = SYSTEM.in_project(instance.project)

    async def _guest(self) -> Guest:
        return await self._streams.guest(self._own, self._instance.id)

    async def _run(self, what: str, *argv: str, env: Mapping[str, str] | None = None, quiet: bool = False) -> str:
        """A command to its end, and the last line that it said. :raise Invalid: it failed."""
        guest = await self._guest()
        process = await guest.execute(Exec(argv, env=env or {}))
        lines, last = Lines(), ""
        try:
            while isinstance(piece := await process.read(), Output):
                for line in lines.feed(piece.data):
                    last = line or last
                    if not quiet:
                        self._told.line(line)
            for line in lines.end():
                last = line or last
                if not quiet:
                    self._told.line(line)
        finally:
            await process.close()
        if piece.code != 0:
            how = f"exit {piece.code}" if piece.code is not None else f"signal {piece.signal}"
            raise Invalid(f"{what}: {how}: {last[:500]}")
        return last

    async def prepare(self, task: Task) -> None:
        """The source, unpacked. Whoever owned its files, they are the guest's."""
        guest = await self._guest()
        await guest.write_file(_SOURCE, _file(task.source), mode=0o600)
        await guest.write_file(_DOCKERFILE, _text(task.dockerfile), mode=0o600)
        await self._run("mkdir", "mkdir", "-p", _CONTEXT)
        await self._run("source", "tar", "-xzf", _SOURCE, "-C", _CONTEXT, "--no-same-owner")
        await self._run("source", "rm", _SOURCE)

    async def give(self, name: str, image: Image) -> None:
        """An image of ours under the name that the instructions find it by; one that is there is not carried twice."""
        kept = f"localhost/given:{image.id.removeprefix('sha256:')}"
        try:
            await self._run(
                "base", "buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", kept, quiet=True
            )
        except Invalid:
            guest = await self._guest()
            async with self._host.images.archived(image.id) as archive:
                await guest.write_file(_BASE, _file(archive), mode=0o600)
            id = await self._run(f"image {name}", "buildah", "pull", "-q", f"oci-archive:{_BASE}", quiet=True)
            await self._run("base", "rm", _BASE)
            await self._run(f"image {name}", "buildah", "tag", id, kept)
        await self._run(f"image {name}", "buildah", "tag", kept, name)
        self._told.line(f"{name}: given by this server, {image.id}")

    async def build(self, task: Task) -> None:
        """Follow the instructions."""
        secrets, env = [], {}
        for number, one in enumerate(task.ask.secrets):
            variable = one.variable or f"POLYVISOR_SECRET_{number}"
            env[variable] = task.secrets[one.id]
            secrets += ["--secret", f"id={one.id},type=env,src={variable}"]
        argv = (
            "buildah", "bud", "--isolation", "chroot", "--format", "oci", "--layers", "--pull=false", *secrets,
            "-t", _TAG, "-f", _DOCKERFILE, _CONTEXT,
        )  # fmt: skip
        await self._run("build", *argv, env=env)

    async def finished(self, task: Task) -> Guest:
        """The guest, with the result as an archive in a file; what is kept on its disk is there."""
        await self._run("push", "buildah", "push", "-q", _TAG, f"oci-archive:{_RESULT}")
        await self._streams.sync(self._own, self._instance.id)
        return await self._guest()


class Lines:
    """Lines of text from pieces of bytes; a very long one is cut in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > _LONGEST_LINE:
            whole.append(self._rest[:_LONGEST_LINE])
            self._rest = self._rest[_LONGEST_LINE:]
        return [_shown(line) for line in whole]

    def end(self) -> list[str]:
        """The last one, which had no end."""
        rest, self._rest = self._rest, b""
        return [_shown(rest)] if rest else []


def _shown(line: bytes) -> str:
    return line[: 4 * _LONGEST_LINE].decode("utf-8", "replace").rstrip("\r").replace("\0", "\ufffd")


async def _file(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(MIB):
            yield data


async def _text(text: str) -> AsyncIterator[bytes]:
    yield text.encode()
