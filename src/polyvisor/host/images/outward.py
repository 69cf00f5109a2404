"""Images that leave this host: made into an OCI image of one layer, and taken to a registry by skopeo.

Of an image only its root file system is kept, so its layers are one when it leaves. The same image makes the same
bytes. A login is in a file without a name, and so on no disk and in no command line.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import IO, Any

from polyvisor.host.images.fetch import DENIED, Way, skopeo
from polyvisor.host.images.overlay import Overlay
from polyvisor.host.images.room import full, says_full
from polyvisor.host.images.threads import in_thread
from polyvisor.host.images.tools import need
from polyvisor.host.run import draw
from polyvisor.model.faults import Upstream
from polyvisor.model.image import Image, ImageConfig, Reference
from polyvisor.model.push import Login, Sent
from polyvisor.model.units import MIB, Bytes

_OCI = "application/vnd.oci.image"
_LIMIT = 3600.0
_CHUNK = MIB
_LEVEL = 6
_VERSION = "Directory Transport Version: 1.1\n"
_ADDRESS = re.compile(r"https?://\S+")


async def send(image: Image, squashfs: Path, target: Reference, way: Way, *, plain: bool, login: Login | None) -> Sent:
    """`plain`: the registry need not speak TLS, nor be believed its certificate. :raise Upstream, NoCapacity:"""
    place = way.work / "outward"
    size = await in_thread(partial(_lay_out, image, squashfs, place, way.arch))
    flags = ["--dest-tls-verify=false"] if plain else []
    where = f"{target.registry}/{target.repository}:{target.tag}"
    with login_file(target.registry, login) as fd:
        if fd is not None:
            flags += ["--dest-authfile", f"/proc/self/fd/{fd}"]
        argv = skopeo("copy", "", "-q", *flags, f"dir:{place}", f"docker://{where}")
        done = await way.run(argv, timeout=_LIMIT, fds=[fd] if fd is not None else [])
    if done.code:
        said = done.err.decode("utf-8", "replace").strip()
        last = said.splitlines()[-1] if said else f"exit {done.code}"
        why = "its registry wants another login" if DENIED.search(last.lower()) else "could not be pushed"
        raise Upstream(f"target: {where}: {why}", field="target", private=_ADDRESS.sub("URL", last)[-400:])
    return Sent(1, size)


@contextmanager
def login_file(registry: str, login: Login | None) -> Iterator[int | None]:
    """A descriptor of what skopeo reads logins from."""
    if login is None:
        yield None
        return
    fd = os.memfd_create("login", os.MFD_CLOEXEC)
    try:
        pair = f"{login.username}:{login.password}".encode()
        with os.fdopen(os.dup(fd), "w") as file:
            json.dump({"auths": {registry: {"auth": base64.b64encode(pair).decode()}}}, file)
        yield fd
    finally:
        os.close(fd)


def _lay_out(image: Image, squashfs: Path, place: Path, arch: str) -> Bytes:
    """skopeo's `dir:` form of it; the size of its layer. Blocking. :raise NoCapacity, Unsupported:"""
    need("sqfs2tar")
    place.mkdir()
    layer = _Layer(place / "layer")
    try:
        with open(os.devnull, "rb") as nothing:
            draw(["sqfs2tar", "-r", ".", str(squashfs)], nothing.fileno(), layer.take, timeout=_LIMIT)
    except Exception as error:
        words = getattr(error, "private", str(error))
        if says_full(words):
            raise full(words) from error
        raise
    digest = layer.done()
    (place / "layer").rename(place / digest)
    size = (place / digest).stat().st_size
    config = json.dumps(_config(image, arch, layer.plain), sort_keys=True).encode()
    _blob(place, config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _named(f"{_OCI}.config.v1+json", _hex(config), len(config)),
        "layers": [_named(f"{_OCI}.layer.v1.tar+gzip", digest, size)],
    }
    (place / "manifest.json").write_bytes(json.dumps(manifest, sort_keys=True).encode())
    (place / "version").write_text(_VERSION)
    return Bytes(size)


def archive(image: Image, squashfs: Path, work: Path, arch: str) -> Path:
    """The same as an OCI layout, in a tar. Blocking. :raise NoCapacity, Unsupported:"""
    place, out = work / "outward", work / "layout.tar"
    _lay_out(image, squashfs, place, arch)
    manifest = (place / "manifest.json").read_bytes()
    (place / "manifest.json").rename(place / _hex(manifest))
    (place / "version").unlink()
    index = {"schemaVersion": 2, "manifests": [_named(f"{_OCI}.manifest.v1+json", _hex(manifest), len(manifest))]}
    with Overlay(out) as tree:
        tree.file("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}))
        tree.file("index.json", json.dumps(index))
        tree.directory("blobs")
        tree.directory("blobs/sha256")
        for blob in sorted(place.iterdir()):
            tree.copy(f"blobs/sha256/{blob.name}", blob)
    return out


class _Layer:
    """A tar that comes as a stream, compressed into a file; both digests."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._plain = hashlib.sha256()

    def take(self, stream: IO[bytes]) -> None:
        with self._path.open("wb") as out, gzip.GzipFile("", "wb", _LEVEL, out, mtime=0) as packed:
            while data := stream.read(_CHUNK):
                self._plain.update(data)
                packed.write(data)

    @property
    def plain(self) -> str:
        return self._plain.hexdigest()

    def done(self) -> str:
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _config(image: Image, arch: str, layer: str) -> dict[str, Any]:
    created = image.created.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return {
        "architecture": arch, "os": "linux", "created": created, "config": _workload(image.config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created": created, "comment": f"one layer of {image.id}"}],
    }  # fmt: skip


def _workload(config: ImageConfig) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "Entrypoint": list(config.entrypoint), "Cmd": list(config.cmd), "Env": [f"{k}={v}" for k, v in config.env],
        "WorkingDir": config.workdir, "User": config.user, "ExposedPorts": {port: {} for port in config.ports},
        "Labels": dict(config.labels),
    }  # fmt: skip
    return {name: value for name, value in whole.items() if value}


def _blob(place: Path, data: bytes) -> None:
    (place / _hex(data)).write_bytes(data)


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _named(media: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": size}
