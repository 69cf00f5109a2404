"""Layers applied to a tree in memory, the way an image's author saw them stacked. Pure: headers in, tree out.

The rules: a whiteout hides what lower layers put there, never its own layer's entries; a directory over a
directory changes only its metadata; anything else replaces what was there, with all that was below it; a hard
link shares the file it names at that moment, whatever happens to that name later.

Names are taken strictly: an absolute name or a `..` is refused (container engines differ on a leading `/`; no tool
in use writes one). A parent that is a symlink is followed inside the image's own root, as container engines do,
since layers rely on it (`bin/x` over a `bin -> usr/bin` below); one that climbs above the root is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from polyvisor.host.images.bounds import Bounds
from polyvisor.model.faults import Invalid

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_AUFS = ".wh..wh."  # bookkeeping of an old storage driver, ignored by all engines
_HOPS = 40  # as many symlinks as Linux follows in one path
_STEPS = 20_000_000  # path parts walked in one image: an honest one needs a tenth


class Kind(StrEnum):
    """What an entry is."""

    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"
    FIFO = "fifo"
    HARDLINK = "hard link"


@dataclass(slots=True)
class Member:
    """One header of a layer. `layer` and `offset` say where the content lies; `link` is a link's target."""

    name: str
    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: str = ""
    xattrs: tuple[tuple[str, str], ...] = ()
    layer: int = 0
    offset: int = 0


@dataclass(slots=True, eq=False)
class Node:
    """A file of the tree; hard links are one Node in several places."""

    meta: Member
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def is_dir(self) -> bool:
        return self.meta.kind is Kind.DIRECTORY


def refuse(name: str, why: str) -> Invalid:
    """The fault that names a hostile member."""
    shown = name.encode("utf-8", "backslashreplace").decode()[:200]
    return Invalid(f"image: {shown!r} {why}", field="image")


def split(name: str, shown: str) -> list[str]:
    """The parts of a member's name. :raise Invalid: naming `shown`, unless it stays below the root."""
    if name.startswith("/"):
        raise refuse(shown, "is an absolute path")
    if "\0" in name:
        raise refuse(shown, "has a NUL character")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refuse(shown, "climbs with '..'")
    if len(name.encode("utf-8", "surrogateescape")) > 4095 or len(parts) > 512:
        raise refuse(shown, "has too long a path")
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts):
        raise refuse(shown, "has too long a name")
    return parts


class Tree:
    """The root file system so far."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.root = Node(Member("", Kind.DIRECTORY))
        self._bounds = bounds or Bounds()
        self._entries = 0
        self._content = 0
        self._metadata = 0
        self._steps = 0

    def apply(self, layer: Iterable[Member]) -> None:
        """One more layer on top. :raise Invalid: naming the member that is refused."""
        entries: list[tuple[Member, list[str]]] = []
        for member in layer:
            self._count(member)
            parts = split(member.name, member.name)
            if any(part.startswith(WHITEOUT) for part in parts[:-1]):
                raise refuse(member.name, "is below a whiteout")
            if parts and parts[-1].startswith(WHITEOUT):
                self._hide(member, parts)
            else:
                entries.append((member, parts))
        for member, parts in entries:
            self._place(member, parts)

    def _count(self, member: Member) -> None:
        self._entries += 1
        self._content += member.size
        self._metadata += _weight(member)
        self._bounds.check("the number of entries", self._entries, self._bounds.entries)
        self._bounds.check("the unpacked size", self._content, self._bounds.content)
        self._bounds.check("the size of names and attributes", self._metadata, self._bounds.metadata)

    def _hide(self, member: Member, parts: list[str]) -> None:
        """Runs before any entry of the same layer is placed, so it sees lower layers only."""
        *above, base = parts
        hidden = base.removeprefix(WHITEOUT)
        if base != OPAQUE and base.startswith(_AUFS):
            return
        if hidden in ("", ".", ".."):
            raise refuse(member.name, "is a whiteout of nothing")
        parent = self._directory(above, member, make=False)
        if parent is None:
            return
        if base == OPAQUE:
            parent.children.clear()
        else:
            parent.children.pop(hidden, None)

    def _place(self, member: Member, parts: list[str]) -> None:
        if not parts:
            if member.kind is not Kind.DIRECTORY:
                raise refuse(member.name, "replaces the root directory")
            self.root.meta = member
            return
        parent = self._directory(parts[:-1], member, make=True)
        assert parent is not None  # made on the way
        base = parts[-1]
        there = parent.children.get(base)
        if member.kind is Kind.HARDLINK:
            parent.children[base] = self._linked(member)
        elif there is not None and there.is_dir and member.kind is Kind.DIRECTORY:
            there.meta = member
        else:
            if member.kind is Kind.SYMLINK:
                _check_target(member)
            parent.children[base] = Node(member)

    def _linked(self, member: Member) -> Node:
        parts = split(member.link, member.name)
        parent = self._directory(parts[:-1], member, make=False) if parts else None
        target = parent.children.get(parts[-1]) if parent else None
        if target is None or target.is_dir:
            raise refuse(member.name, "is a hard link to what is not a file of the image")
        return target

    def _directory(self, parts: list[str], member: Member, *, make: bool) -> Node | None:
        """The directory at `parts`, following symlinks inside the root; None when absent and not to be made."""
        above = [self.root]
        todo = parts[::-1]
        hops = 0
        while todo:
            part = todo.pop()
            self._steps += 1
            if part == "..":
                if len(above) == 1:
                    raise refuse(member.name, "leaves the image through a symlink")
                above.pop()
                continue
            child = above[-1].children.get(part)
            if child is None:
                if not make:
                    return None
                child = above[-1].children[part] = self._implied()
            if child.meta.kind is Kind.SYMLINK:
                hops = self._hop(member, hops)
                above = above[:1] if child.meta.link.startswith("/") else above
                todo.extend(p for p in reversed(child.meta.link.split("/")) if p not in ("", "."))
            elif child.is_dir:
                above.append(child)
            elif make:
                raise refuse(member.name, "has a parent that is not a directory")
            else:
                return None
        return above[-1]

    def _implied(self) -> Node:
        """A parent that the layer did not mention. Counted: one name can imply hundreds."""
        made = Member("", Kind.DIRECTORY)
        self._count(made)
        return Node(made)

    def _hop(self, member: Member, hops: int) -> int:
        if hops >= _HOPS or self._steps > _STEPS:
            raise refuse(member.name, "goes through too many symlinks")
        return hops + 1

    def walk(self) -> Iterator[tuple[str, Member]]:
        """Everything below the root, parents first, in the order of names: the same tree gives the same walk.

        The second and later names of a file come as hard links to the first.
        """
        first: dict[int, str] = {}
        todo = [("", self.root)]
        while todo:
            path, node = todo.pop()
            if len(path) > 4095:
                raise refuse(path[-200:], "has too long a path")
            if path:
                yield path, self._seen(first, path, node)
            prefix = f"{path}/" if path else ""
            todo.extend((prefix + name, node.children[name]) for name in sorted(node.children, reverse=True))

    @staticmethod
    def _seen(first: dict[int, str], path: str, node: Node) -> Member:
        if node.meta.kind is Kind.FILE:
            earlier = first.setdefault(id(node), path)
            if earlier != path:
                return replace(node.meta, name=path, kind=Kind.HARDLINK, link=earlier, size=0, xattrs=())
        return node.meta


def _weight(member: Member) -> int:
    """Bytes of the texts that are kept for it. Characters beyond Latin-1 take up to four in memory."""
    texts = (member.name, member.link, *(text for pair in member.xattrs for text in pair))
    return sum(len(text) if text.isascii() else 4 * len(text) for text in texts)


def _check_target(member: Member) -> None:
    if not member.link or "\0" in member.link or len(member.link.encode("utf-8", "surrogateescape")) > 4095:
        raise refuse(member.name, "is a symlink without a usable target")
