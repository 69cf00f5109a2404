"""`Image`: what instances are made from, and `Reference`: how people name one.

No registry is known by default: a short name is a local or built-in image, or is looked up in the registry that
the operator configured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from polyvisor.model.faults import Invalid
from polyvisor.model.ids import Digest
from polyvisor.model.units import Bytes


class ImageKind(StrEnum):
    """Which machine shape an image makes."""

    ROOT = "root"  # a read-only root file system, from OCI layers: micro
    DISK = "disk"  # a bootable disk: full


class ImageState(StrEnum):
    """`pulling` ones are swept up after a crash; only `ready` ones can be used."""

    PULLING = "pulling"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What the image says of its workload; all empty for a disk. `ports` are such as `80/tcp`."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    ports: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """`size` is the file's on this host, `virtual_size` what a guest sees; `fraction` is None when not known."""

    id: Digest
    names: tuple[str, ...]
    kind: ImageKind
    state: ImageState
    created: datetime
    size: Bytes = Bytes(0)
    virtual_size: Bytes = Bytes(0)
    config: ImageConfig = field(default_factory=ImageConfig)
    progress: str = ""
    fraction: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where an image of the operator's is: a file of this host or a URL, and what the SHA-256 of that file is."""

    sha256: str
    file: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed image name. `registry` is "" for a short name; there is always a tag or a digest."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        host = f"{self.registry}/" if self.registry else ""
        tag = f":{self.tag}" if self.tag else ""
        return host + self.repository + tag + (f"@{self.digest}" if self.digest else "")

    @property
    def short(self) -> str:
        """The name a person would say: without the tag when that is `latest`."""
        return str(self).removesuffix(":latest")

    @property
    def loopback(self) -> bool:
        """Whether the registry is this very machine, which may speak plain http."""
        host = self.registry.removeprefix("[").partition("]")[0] if self.registry.startswith("[") else ""
        host = host or self.registry.partition(":")[0]
        return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


LONGEST = 512
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]{{2,39}}\])(?::[0-9]{{1,5}})?")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: str, field: str = "digest") -> Digest:
    """`text` as a digest. :raise Invalid: naming `field`."""
    if not _DIGEST.fullmatch(text):
        raise Invalid(f"{field}: must be 'sha256:' and 64 hex digits", field=field)
    return Digest(text)


def parse_reference(text: str, default_registry: str = "", field: str = "image") -> Reference:
    """`[registry/]path[:tag][@digest]`, with the tag `latest` when neither tag nor digest is given.

    The first part is a registry when it has a dot or a colon or is `localhost`. `default_registry` is
    `host[/namespace]`: the host completes every short name, the namespace those of a single part.
    :raise Invalid: naming `field`.
    """
    if not 0 < len(text) <= LONGEST:
        raise Invalid(f"{field}: an image name has 1 to {LONGEST} characters", field=field)
    rest, at, digest = text.partition("@")
    if at:
        parse_digest(digest, field)
    registry, rest = _split_registry(rest)
    path, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise Invalid(f"{field}: {tag[:140]!r} is not a tag", field=field)
    if not registry and default_registry:
        registry, _, namespace = default_registry.partition("/")
        path = f"{namespace}/{path}" if namespace and "/" not in path else path
    if registry and not _HOST.fullmatch(registry):
        raise Invalid(f"{field}: {registry[:80]!r} is not a registry's host name", field=field)
    if len(path) > 255 or not all(_PART.fullmatch(part) for part in path.split("/")):
        raise Invalid(f"{field}: {path[:80]!r} is not an image path (lower-case parts, '/' between)", field=field)
    return Reference(registry, path, tag or ("" if digest else "latest"), digest)


def _split_registry(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return "", text
