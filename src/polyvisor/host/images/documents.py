"""Manifests, indexes and configs: JSON from strangers, read strictly into what we need of it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyvisor.host.images.bounds import DOCUMENT, Bounds
from polyvisor.model.faults import Invalid, Unsupported
from polyvisor.model.ids import Digest
from polyvisor.model.image import ImageConfig, parse_digest
from polyvisor.ports.images import Contents

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LAYERS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Blob:
    """What a manifest says of one of its parts."""

    digest: Digest
    size: int

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A config and the layers, lowest first."""

    config: Blob
    layers: tuple[Blob, ...]

    @property
    def size(self) -> int:
        return self.config.size + sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Config:
    """The workload, and the digests of the layers once uncompressed."""

    image: ImageConfig
    diff_ids: tuple[Digest, ...]


def architecture() -> str:
    """This machine's, in the words of image indexes."""
    return _MACHINES.get(platform.machine(), platform.machine())


def _no(why: str) -> Invalid:
    return Invalid(f"image: {why}", field="image")


def read(data: bytes, what: str) -> Mapping[str, Any]:
    """A JSON object. A key said twice is refused: two readers could take it for two different images."""
    if len(data) > DOCUMENT:
        raise _no(f"its {what} is larger than {DOCUMENT} bytes")
    try:
        found = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as exc:
        raise _no(f"its {what} is not JSON that can be trusted ({str(exc)[:80]})") from exc
    if not isinstance(found, dict):
        raise _no(f"its {what} is not an object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is said twice")
    return found


def choose(index: Mapping[str, Any], arch: str) -> Digest:
    """The manifest for Linux on `arch`. :raise Unsupported: there is none."""
    offered: list[str] = []
    for entry in _list(index, "manifests", dict):
        where = entry.get("platform") or {}
        if not isinstance(where, dict):
            raise _no("a platform in its index is malformed")
        if where.get("os") == "linux" and where.get("architecture") == arch:
            return parse_digest(str(entry.get("digest")), "image")
        offered.append(f"{where.get('os')}/{where.get('architecture')}"[:40])
    raise Unsupported(f"image: made for {', '.join(offered[:8]) or 'nothing'}, not for linux/{arch}", field="image")


def manifest(data: bytes, bounds: Bounds) -> Manifest:
    """:raise Invalid: it is malformed, points elsewhere for its layers, or is over `bounds`."""
    found = read(data, "manifest")
    if found.get("mediaType", MANIFESTS[0]) not in MANIFESTS or found.get("schemaVersion") != 2:
        raise _no("its manifest is of a kind not understood here")
    layers = tuple(_layer(entry) for entry in _list(found, "layers", dict))
    bounds.check("the number of layers", len(layers), bounds.layers)
    config = found.get("config")
    if not isinstance(config, dict):
        raise _no("its manifest has no config")
    parsed = Manifest(_blob(config), layers)
    bounds.check("the size of the config", parsed.config.size, DOCUMENT)
    bounds.check("the packed size", parsed.size, bounds.content)
    return parsed


def contents(data: bytes, bounds: Bounds, arch: str) -> Contents:
    """What a manifest, or an index of them, names. :raise Invalid: :raise Unsupported: none of it is for `arch`."""
    found = read(data, "manifest")
    media = found.get("mediaType", "")
    if not isinstance(media, str):
        raise _no("its mediaType is no text")
    if media in INDEXES or (not media and "manifests" in found):
        return Contents(chosen=choose(found, arch), media=media)
    parsed = manifest(data, bounds)
    return Contents({blob.digest: blob.size for blob in (parsed.config, *parsed.layers)}, media=media)


def _layer(entry: Mapping[str, Any]) -> Blob:
    if entry.get("urls"):
        raise _no("a layer is to be fetched from a foreign address")
    if entry.get("mediaType") not in _LAYERS:
        raise _no(f"a layer is of type {str(entry.get('mediaType'))[:80]!r}, which is not taken")
    return _blob(entry)


def _blob(entry: Mapping[str, Any]) -> Blob:
    size = entry.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise _no("a size in its manifest is malformed")
    return Blob(parse_digest(str(entry.get("digest")), "image"), size)


def config(data: bytes, layers: int, arch: str) -> Config:
    """The config of an image of so many layers. :raise Invalid, Unsupported: it is for another machine."""
    found = read(data, "config")
    system, machine = found.get("os") or "linux", found.get("architecture") or arch
    if (system, machine) != ("linux", arch):
        raise Unsupported(f"image: made for {system}/{machine}, not for linux/{arch}"[:160], field="image")
    rootfs = found.get("rootfs")
    if not isinstance(rootfs, dict):
        raise _no("its config names no layers")
    diff_ids = tuple(parse_digest(text, "image") for text in _list(rootfs, "diff_ids", str))
    if len(diff_ids) != layers:
        raise _no(f"its config names {len(diff_ids)} layers, its manifest {layers}")
    inner = found.get("config") or {}
    if not isinstance(inner, dict):
        raise _no("its config is malformed")
    return Config(_image_config(inner), diff_ids)


def _image_config(found: Mapping[str, Any]) -> ImageConfig:
    texts = {}
    for key in ("WorkingDir", "User"):
        value = found.get(key) or ""
        if not isinstance(value, str) or "\0" in value:
            raise _no(f"{key} in its config is not text")
        texts[key] = value
    return ImageConfig(
        entrypoint=_texts(found, "Entrypoint"),
        cmd=_texts(found, "Cmd"),
        env=tuple(pair for pair in map(_pair, _texts(found, "Env")) if pair[0]),
        workdir="/" + texts["WorkingDir"].lstrip("/") if texts["WorkingDir"] else "",
        user=texts["User"],
        ports=tuple(sorted(_object(found, "ExposedPorts"))),
        labels=tuple(sorted((key, str(value)) for key, value in _object(found, "Labels").items())),
    )


def _texts(found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = tuple(_list(found, key, str))
    if any("\0" in text for text in texts):
        raise _no(f"{key} in its config has a NUL character")
    return texts


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _object(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = found.get(key) or {}
    if not isinstance(value, dict):
        raise _no(f"{key} in its config is malformed")
    return value


def _list(found: Mapping[str, Any], key: str, kind: type) -> Sequence[Any]:
    value = found.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise _no(f"{key} is malformed")
    return value
