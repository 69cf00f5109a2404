"""The images directory: one directory per digest, and what people call them. The files are the truth.

    images/<hex>/image.json  root.squashfs | disk.qcow2      appears whole, by one rename
    images/names.json        name -> digest                  replaced whole, by one rename
    images/.work-*           half-made things                swept at start-up

So a crash at any point leaves either the old state or the new one, and at worst a directory to sweep.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from polyvisor.model.faults import NotFound
from polyvisor.model.ids import Digest
from polyvisor.model.image import Image, ImageConfig, ImageKind, ImageState
from polyvisor.model.units import Bytes

FILES = {ImageKind.ROOT: "root.squashfs", ImageKind.DISK: "disk.qcow2"}
_RECORD = "image.json"
_NAMES = "names.json"
_WORK = ".work-"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """An image here, and the digest of the recipe when it is a built-in one."""

    image: Image
    recipe: str = ""


class Catalog:
    """What is in `root`. Synchronous: every call is a few small files; what is large was settled before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self._entries = {entry.image.id: entry for entry in self._load()}
        self._names = {n: d for n, d in self._read_names().items() if d in self._entries}

    def _sweep(self) -> None:
        for left in self.root.glob(f"{_WORK}*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in self.root.glob(f"{_NAMES}.*"):
            left.unlink(missing_ok=True)

    def _load(self) -> Iterator[Entry]:
        for record in sorted(self.root.glob(f"*/{_RECORD}")):
            with suppress(ValueError, KeyError, TypeError, OSError):  # not ours, or of a later version: left alone
                entry = _revive(json.loads(record.read_bytes()))
                whole = (record.parent / FILES[entry.image.kind]).is_file()
                if whole and self._home(entry.image.id) == record.parent:
                    yield entry

    def _read_names(self) -> dict[str, Digest]:
        try:
            found = json.loads((self.root / _NAMES).read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(name): Digest(digest) for name, digest in found.items()}

    def work(self) -> Path:
        """A new directory on the same file system for half-made things. To be removed by who asked."""
        return Path(tempfile.mkdtemp(prefix=_WORK, dir=self.root))

    def admit(self, image: Image, made: Path, recipe: str = "") -> Image:
        """Take over the settled file at `made` (on this file system) as `image`, whole or not at all."""
        if image.id not in self._entries:
            entry = Entry(replace(image, names=(), size=Bytes(made.stat().st_blocks * 512)), recipe)
            work = self.work()
            try:
                self._move_in(entry, made, work / "image")
            finally:
                shutil.rmtree(work, ignore_errors=True)
            self._entries[image.id] = entry
        elif recipe and not self._entries[image.id].recipe:  # it came by another way before
            entry = self._entries[image.id] = replace(self._entries[image.id], recipe=recipe)
            _write(self._home(image.id) / _RECORD, _show(entry))
        for name in image.names:
            self.name(image.id, name)
        return self.get(image.id)

    def _move_in(self, entry: Entry, made: Path, place: Path) -> None:
        place.mkdir(mode=0o755)
        made.rename(place / FILES[entry.image.kind])
        _write(place / _RECORD, _show(entry))
        _sync(place)
        home = self._home(entry.image.id)
        shutil.rmtree(home, ignore_errors=True)  # what could not be loaded at start-up
        place.rename(home)
        _sync(self.root)

    def name(self, digest: Digest, name: str) -> None:
        """`name` means `digest` from now on."""
        if digest not in self._entries:
            raise NotFound(f"there is no image {digest}", subject=digest)
        self._rename({**self._names, name: digest})

    def _rename(self, names: dict[str, Digest]) -> None:
        if names == self._names:
            return
        fresh = self.root / f"{_NAMES}.new"
        _write(fresh, names)
        fresh.replace(self.root / _NAMES)
        _sync(self.root)
        self._names = names

    def get(self, digest: Digest) -> Image:
        """:raise NotFound:"""
        if digest not in self._entries:
            raise NotFound(f"there is no image {digest}", subject=digest)
        names = tuple(sorted(name for name, target in self._names.items() if target == digest))
        return replace(self._entries[digest].image, names=names)

    def find(self, name: str) -> Image | None:
        """The image of that name or digest."""
        digest = self._names.get(name, Digest(name))
        return self.get(digest) if digest in self._entries else None

    def made_by(self, recipe: str) -> Image | None:
        """The image that a recipe of that digest made."""
        found = (entry.image.id for entry in self._entries.values() if entry.recipe == recipe)
        return next(map(self.get, found), None)

    def all(self) -> list[Image]:
        """In the order of their making."""
        return sorted(map(self.get, self._entries), key=lambda image: (image.created, image.id))

    def path(self, digest: Digest) -> Path:
        """:raise NotFound:"""
        return self._home(digest) / FILES[self.get(digest).kind]

    def detach(self, digest: Digest) -> Path | None:
        """Names first, then the directory by one rename: a crash between leaves a whole image without a name.

        What is returned is no image any more, and remains to be deleted.
        """
        if digest not in self._entries:
            return None
        self._rename({name: target for name, target in self._names.items() if target != digest})
        del self._entries[digest]
        doomed = Path(tempfile.mkdtemp(prefix=_WORK, dir=self.root))
        self._home(digest).rename(doomed / "image")
        return doomed

    def _home(self, digest: Digest) -> Path:
        return self.root / digest.removeprefix("sha256:")


def settle(made: Path) -> None:
    """Make it read-only and wait until it is on the disk. Blocking: seconds, for gigabytes."""
    made.chmod(0o444)
    _sync(made)


def _show(entry: Entry) -> Mapping[str, Any]:
    image = asdict(entry.image)
    for key in ("names", "state", "progress", "fraction", "error"):
        del image[key]
    return {"schema": _SCHEMA, "recipe": entry.recipe, **image, "created": entry.image.created.isoformat()}


def _revive(found: Mapping[str, Any]) -> Entry:
    if found["schema"] != _SCHEMA:
        raise ValueError("another schema")
    config = found["config"]
    image = Image(
        id=Digest(found["id"]),
        names=(),
        kind=ImageKind(found["kind"]),
        state=ImageState.READY,
        created=datetime.fromisoformat(found["created"]),
        size=Bytes(found["size"]),
        virtual_size=Bytes(found["virtual_size"]),
        config=ImageConfig(**{key: _frozen(value) for key, value in config.items()}),
    )
    return Entry(image, found["recipe"])


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _write(path: Path, value: Any) -> None:
    with path.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
