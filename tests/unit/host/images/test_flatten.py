"""Layers on layers: compared with a model that is nothing but a dict of paths, and with hostile members."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.host.images.bounds import Bounds
from polyvisor.host.images.flatten import Kind, Member, Tree
from polyvisor.model.faults import Invalid

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
Model = dict[str, tuple[str, int]]


def directory(name: str, **more: Any) -> Member:
    return Member(name, Kind.DIRECTORY, **more)


def file(name: str, size: int = 1) -> Member:
    return Member(name, Kind.FILE, size=size)


def link(name: str, target: str) -> Member:
    return Member(name, Kind.SYMLINK, link=target)


def hard(name: str, target: str) -> Member:
    return Member(name, Kind.HARDLINK, link=target)


def tree(*layers: list[Member], bounds: Bounds | None = None) -> Tree:
    made = Tree(bounds)
    for layer in layers:
        made.apply(layer)
    return made


def paths(*layers: list[Member]) -> list[str]:
    return [path for path, _ in tree(*layers).walk()]


@st.composite
def layer(draw: st.DrawFn) -> list[Member]:
    kinds = st.sampled_from(["directory", "file", "whiteout", "opaque"])
    found: list[Member] = []
    for number, (path, kind) in enumerate(draw(st.lists(st.tuples(PATHS, kinds), max_size=6))):
        above, _, base = path.rpartition("/")
        prefix = f"{above}/" if above else ""
        found.append(
            {
                "directory": directory(path, mtime=number),
                "file": file(path, size=number),
                "whiteout": file(f"{prefix}.wh.{base}", 0),
                "opaque": file(f"{path}/.wh..wh..opq", 0),
            }[kind]
        )
    return found


def drop(model: Model, path: str, *, itself: bool = True) -> None:
    for known in list(model):
        if known.startswith(f"{path}/") or (itself and known == path):
            del model[known]


def reference(model: Model, members: list[Member]) -> None:
    """The rules, said as slowly as possible. Raises Invalid where a parent is a file."""
    for member in members:
        above, _, base = member.name.rpartition("/")
        if base == ".wh..wh..opq":
            if model.get(above, ("", 0))[0] == "directory":
                drop(model, above, itself=False)
        elif base.startswith(".wh."):
            drop(model, f"{above}/{base[4:]}".lstrip("/"))
    for member in (m for m in members if ".wh." not in m.name):
        parts = member.name.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if model.setdefault(parent, ("directory", 0))[0] != "directory":
                raise Invalid
        both_directories = member.kind is Kind.DIRECTORY and model.get(member.name, ("", 0))[0] == "directory"
        if not both_directories:
            drop(model, member.name)
        value = member.mtime if member.kind is Kind.DIRECTORY else member.size
        model[member.name] = (member.kind.value, value)


@given(st.lists(layer(), max_size=4))
def test_flattening_does_what_a_dict_of_paths_would(layers: list[list[Member]]) -> None:
    model: Model = {}
    made = Tree()
    for members in layers:
        try:
            reference(model, members)
        except Invalid:
            with pytest.raises(Invalid):
                made.apply(members)
            return
        made.apply(members)
    found = {
        path: (member.kind.value, member.mtime if member.kind is Kind.DIRECTORY else member.size)
        for path, member in made.walk()
    }
    assert found == model
    assert list(found) == sorted(found, key=lambda path: path.split("/"))


@given(st.lists(st.tuples(st.text("./a\0", max_size=8), st.sampled_from(list(Kind)), st.text("./a", max_size=6))))
def test_odd_names_are_refused_or_stay_below_the_root(members: list[tuple[str, Kind, str]]) -> None:
    made = Tree()
    try:
        made.apply([Member(name, kind, link=target) for name, kind, target in members])
    except Invalid:
        return
    assert all(part not in ("", ".", "..") for path, _ in made.walk() for part in path.split("/"))


def test_a_whiteout_hides_what_is_below_but_not_its_own_layer() -> None:
    assert paths([file("a"), file("b")], [file("a"), file(".wh.a"), file(".wh.b")]) == ["a"]


def test_an_opaque_directory_starts_empty() -> None:
    assert paths([file("d/old")], [file("d/new"), file("d/.wh..wh..opq")]) == ["d", "d/new"]


def test_a_directory_over_a_directory_keeps_its_children() -> None:
    made = tree([directory("d", mode=0o700), file("d/a")], [directory("d", mode=0o711)])
    assert next((path, member.mode) for path, member in made.walk()) == ("d", 0o711)
    assert paths([directory("d"), file("d/a")], [file("d")]) == ["d"]


def test_a_hard_link_outlives_the_replacement_of_what_it_named() -> None:
    made = tree([file("a", 7), hard("b", "a")], [file("a", 9)])
    assert [(path, m.kind, m.size) for path, m in made.walk()] == [("a", Kind.FILE, 9), ("b", Kind.FILE, 7)]


def test_a_hard_link_to_a_lower_layer_is_one_file() -> None:
    made = tree([file("z", 7)], [hard("a", "z")])
    assert [(path, m.kind, m.link) for path, m in made.walk()] == [
        ("a", Kind.FILE, ""),
        ("z", Kind.HARDLINK, "a"),
    ]


def test_a_symlinked_parent_is_followed_inside_the_image() -> None:
    assert paths([link("bin", "usr/bin"), directory("usr/bin")], [file("bin/x")])[-1] == "usr/bin/x"
    assert paths([link("run", "/etc")], [file("run/passwd")]) == ["etc", "etc/passwd", "run"]


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([file("/etc/passwd")], "absolute"),
        ([file("a/../../etc/passwd")], "climbs"),
        ([link("a", "../../etc"), file("a/passwd")], "leaves the image"),
        ([link("a", "b"), link("b", "a"), file("a/x")], "too many symlinks"),
        ([hard("a", "/etc/passwd")], "absolute"),
        ([hard("a", "../etc/passwd")], "climbs"),
        ([hard("a", "nothing")], "hard link"),
        ([directory("d"), hard("a", "d")], "hard link"),
        ([file("a"), file("a/b")], "not a directory"),
        ([link("a", "")], "without a usable target"),
        ([file(".wh.")], "whiteout of nothing"),
        ([file(".wh...")], "whiteout of nothing"),
        ([file(".wh.a/b")], "below a whiteout"),
        ([file(".")], "replaces the root"),
        ([file("a" * 256)], "too long a name"),
        ([file("/".join(["a"] * 600))], "too long a path"),
        ([file("a\0b")], "NUL"),
    ],
)
def test_hostile_members_are_refused_by_name(members: list[Member], why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        tree(members)
    assert repr(members[-1].name.encode("utf-8", "backslashreplace").decode()[:20])[1:-1] in caught.value.public


def test_bombs_are_refused() -> None:
    with pytest.raises(Invalid, match="unpacked size"):
        tree([file("a", 600), file("b", 600)], bounds=Bounds(content=1000))
    with pytest.raises(Invalid, match="number of entries"):
        tree([file("/".join(["a"] * 40))], bounds=Bounds(entries=30))
    with pytest.raises(Invalid, match="number of entries"):
        tree([file(str(n)) for n in range(31)], bounds=Bounds(entries=30))


def test_names_and_attributes_are_bounded_by_their_bytes() -> None:
    bounds = Bounds(metadata=10_000)
    long = [file(f"{n}" + "x" * 200) for n in range(60)]
    with pytest.raises(Invalid, match="size of names and attributes"):
        tree(long, bounds=bounds)
    wide = [Member(f"{n}", Kind.FILE, xattrs=(("user.a", "\u20ac" * 1000),)) for n in range(3)]
    with pytest.raises(Invalid, match="size of names and attributes"):
        tree(wide, bounds=bounds)
    tree(long[:40], bounds=bounds)
