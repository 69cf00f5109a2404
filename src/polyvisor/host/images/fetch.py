"""Images brought to this host by skopeo, then believed in nothing: each part's size and digest is checked again.

skopeo's `dir:` form keeps the registry's manifest byte for byte, so an image has the same digest here as there.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
import shutil
import signal
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from polyvisor.host.images.bounds import DOCUMENT, Bounds
from polyvisor.host.images.documents import INDEXES, Blob, Config, Manifest, choose, config, manifest, read
from polyvisor.host.images.gate import run_enclosed
from polyvisor.host.images.room import full, says_full
from polyvisor.host.images.threads import in_thread
from polyvisor.host.images.tools import need
from polyvisor.host.run import Completed, Limits, proxies, run
from polyvisor.model.faults import Invalid, NotFound, Upstream
from polyvisor.model.ids import Digest
from polyvisor.model.image import Reference
from polyvisor.model.units import GIB, MIB
from polyvisor.ports.images import Progress

_CHUNK = MIB
_POLICY = Path("/etc/containers/policy.json")
_ABSENT = re.compile(
    r"manifest unknown|name unknown|repository name not known|status(?: ?code)?:? 404|unexpected http status: 404"
)
DENIED = re.compile(r"unauthorized|authentication required|access to the resource is denied|status(?: ?code)?:? 40[13]")


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image in a directory of ours: `layers` are verified, uncompressed tars, lowest first."""

    digest: Digest
    manifest: Manifest
    config: Config
    layers: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """How a registry is spoken to. `walled`: a stranger named it, so its fetcher reaches public addresses alone.

    `work` is the home of the fetcher: it finds no logins there, not even those of the user that we run as.
    """

    work: Path
    arch: str
    walled: bool = False

    async def run(self, argv: Sequence[str], **how: Any) -> Completed:
        """As `host.run.run`."""
        home = str(self.work)
        own = {"HOME": home, "TMPDIR": home, "XDG_RUNTIME_DIR": home}
        if self.walled and not proxies():  # a proxy of the operator's is his wall
            return await run_enclosed(argv, env=own, check=False, **how)
        return await run(argv, env=own, online=True, check=False, **how)


def skopeo(verb: str, arch: str, *rest: str) -> list[str]:
    """Its command line. :raise Unsupported: it is not installed."""
    need("skopeo")
    # Signature policies are the operator's; without any policy skopeo would not start at all.
    trust = [] if _POLICY.exists() else ["--insecure-policy"]
    choice = ["--override-os", "linux", "--override-arch", arch] if arch else []
    return ["skopeo", *trust, *choice, verb, *rest]


async def resolve(reference: Reference, way: Way) -> Digest:
    """The digest of the manifest for this machine. :raise NotFound, Upstream, Unsupported:"""
    raw = await _raw(reference, way)
    document = read(raw, "manifest")
    if document.get("mediaType") in INDEXES or "manifests" in document:
        return choose(document, way.arch)
    return Digest("sha256:" + hashlib.sha256(raw).hexdigest())


async def _raw(reference: Reference, way: Way) -> bytes:
    flags = ["--tls-verify=false"] if reference.loopback else []
    argv = skopeo("inspect", "", "--raw", *flags, f"docker://{_remote(reference)}")
    done = await way.run(argv, timeout=60, max_output=2 * DOCUMENT)
    _judge(done, str(reference))
    if reference.digest and "sha256:" + hashlib.sha256(done.out).hexdigest() != reference.digest:
        raise Invalid("image: the registry sent a manifest of another digest", field="image")
    return done.out


def _remote(reference: Reference) -> str:
    """skopeo does not take a tag and a digest together; the digest is the stronger."""
    where = f"{reference.registry}/{reference.repository}"
    return f"{where}@{reference.digest}" if reference.digest else f"{where}:{reference.tag}"


def _judge(done: Completed, subject: str) -> None:
    if done.code == 0:
        return
    said = done.err.decode("utf-8", "replace").strip()
    last = said.splitlines()[-1] if said else f"exit {done.code}"
    words = last.lower().replace(subject.lower(), "")  # what is called `404` is not therefore absent
    if says_full(said):
        raise full(last[-400:])
    if done.code == -signal.SIGXFSZ or "file too large" in words:
        raise _bomb()
    if _ABSENT.search(words):
        raise NotFound(f"image: there is no {subject}", field="image", subject=subject, private=last[-4000:])
    why = "its registry wants a login" if DENIED.search(words) else "could not be fetched"
    raise Upstream(f"image: {subject}: {why}", field="image", subject=subject, private=last[-400:])


async def download(reference: Reference, way: Way, bounds: Bounds, progress: Progress) -> Path:
    """The image of `reference.digest` into `way.work`; what is too large is refused before it is fetched."""
    size = manifest(await _raw(reference, way), bounds).size
    if shutil.disk_usage(way.work).free < size:
        raise full(f"{size} bytes to fetch")
    flags = ["--src-tls-verify=false"] if reference.loopback else []
    source = [*flags, f"docker://{_remote(reference)}"]
    return await _copy(source, way, bounds, Meter(str(reference), progress, size))


async def unpack(kind: str, path: Path, way: Way, bounds: Bounds, progress: Progress) -> Path:
    """A local archive or layout into `way.work`. The link keeps `:` and the like out of skopeo's syntax."""
    link = way.work / "source"
    link.symlink_to(path.absolute())
    try:
        return await _copy(
            [f"{kind}:{link}"], way, bounds, Meter("the archive", progress, told="reading"), online=False
        )
    except (Upstream, NotFound) as exc:
        raise Invalid("image: the archive is damaged", field="image", private=exc.private) from exc


@dataclass(frozen=True, slots=True)
class Meter:
    """skopeo says nothing of its progress when it is not on a terminal; the directory does."""

    name: str
    progress: Progress
    total: int = 0
    told: str = "fetching"

    async def watch(self, place: Path, most: int) -> None:
        """Tell what is there, until cancelled. :raise Invalid: when it is over `most` bytes."""
        while True:
            arrived = sum(file.lstat().st_size for file in list(place.iterdir()) if file.exists())
            if arrived > most:
                raise _bomb()
            text = f"{self.told}: {arrived / MIB:.1f} MiB"
            if self.total:
                text += f" of {self.total / MIB:.1f}"
            self.progress(text, min(1.0, arrived / self.total) if self.total else None)
            await asyncio.sleep(0.25)


async def _copy(source: Sequence[str], way: Way, bounds: Bounds, meter: Meter, *, online: bool = True) -> Path:
    place = way.work / "fetched"
    place.mkdir()
    argv = skopeo("copy", way.arch, *source, f"dir:{place}")
    limits = Limits(file_size=bounds.content, no_network=not online)
    running = asyncio.ensure_future(way.run(argv, timeout=3600, limits=limits))
    watch = asyncio.create_task(meter.watch(place, bounds.content + DOCUMENT))
    try:
        await asyncio.wait({running, watch}, return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
        _judge(await running, meter.name)
    finally:
        for task in (watch, running):
            task.cancel()
        await asyncio.gather(watch, running, return_exceptions=True)
    return place


async def open_layers(place: Path, work: Path, arch: str, bounds: Bounds, progress: Progress) -> Fetched:
    """Every part verified, every layer uncompressed into `work`. :raise Invalid: any of it is not what it says."""
    raw = _document(place / "manifest.json", "manifest")
    parsed = manifest(raw, bounds)
    await in_thread(_verify, place, parsed.config)
    settings = config(_document(place / parsed.config.hex, "config"), len(parsed.layers), arch)
    layers: list[Path] = []
    for number, (blob, diff_id) in enumerate(zip(parsed.layers, settings.diff_ids, strict=True)):
        progress(f"unpacking layer {number + 1} of {len(parsed.layers)}", number / len(parsed.layers))
        left = bounds.content - sum(layer.stat().st_size for layer in layers)
        layers.append(await _open_layer(place, blob, diff_id, work / f"layer{number}", left))
    digest = Digest("sha256:" + hashlib.sha256(raw).hexdigest())
    return Fetched(digest, parsed, settings, tuple(layers))


def _document(path: Path, what: str) -> bytes:
    if not path.is_file():
        raise Invalid(f"image: it has no {what}", field="image")
    with path.open("rb") as file:
        return file.read(DOCUMENT + 1)


def _verify(place: Path, blob: Blob) -> None:
    path = place / blob.hex
    if not path.is_file() or path.is_symlink() or path.stat().st_size != blob.size:
        raise Invalid(f"image: part {blob.digest} is not of the size its manifest says", field="image")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != blob.hex:
            raise Invalid(f"image: part {blob.digest} has another digest", field="image")


async def _open_layer(place: Path, blob: Blob, diff_id: Digest, out: Path, left: int) -> Path:
    await in_thread(_verify, place, blob)
    source = place / blob.hex
    with source.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(b"\x1f\x8b"):
        await in_thread(inflate, source, out, left)
    elif magic == b"\x28\xb5\x2f\xfd":
        await _unzstd(source, out, left)
    else:
        out.hardlink_to(source)
    await in_thread(_check_diff, out, diff_id, left)
    return out


def _check_diff(path: Path, diff_id: Digest, left: int) -> None:
    if path.stat().st_size > left:
        raise _bomb()
    with path.open("rb") as file:
        if "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() != diff_id:
            raise Invalid(f"image: a layer is not the {diff_id} that its config names", field="image")


def _bomb() -> Invalid:
    return Invalid("image: its layers unpack to more than is allowed here", field="image")


def inflate(source: Path, out: Path, most: int) -> None:
    """gunzip by the standard library, which stops where we say. :raise Invalid: damaged, or over `most`."""
    try:
        with gzip.open(source, "rb") as packed, out.open("wb") as plain:
            _pump(packed, plain, most)  # type: ignore[arg-type]  # a pipe that was asked for
    except (OSError, EOFError, zlib.error) as exc:
        if isinstance(exc, OSError) and not isinstance(exc, gzip.BadGzipFile):
            raise
        raise Invalid("image: a layer's compression is damaged", field="image") from exc


def _pump(source: BinaryIO, out: BinaryIO, most: int) -> None:
    written = 0
    while data := source.read(_CHUNK):
        written += len(data)
        if written > most:
            raise _bomb()
        out.write(data)


async def _unzstd(source: Path, out: Path, most: int) -> None:
    """By the zstd tool, since Python 3.11 has none; the file-size limit ends a bomb."""
    limits = Limits(cpu_seconds=1800, address_space=GIB, file_size=most + 1, no_network=True)
    argv = ["zstd", "-d", "-q", "-f", "--no-sparse", "-M128MB", str(source), "-o", str(out)]
    need("zstd")
    done = await run(argv, timeout=1800, limits=limits, check=False)
    if done.code:
        said = done.err[-400:].decode("utf-8", "replace")
        if says_full(said):
            raise full(said)
        raise Invalid("image: a zstd layer is damaged or too large", field="image", private=said)
