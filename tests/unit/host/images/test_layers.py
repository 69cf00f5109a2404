"""Tars from strangers, and the tar we make: what goes in comes out, and what is hostile does not get in."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyvisor.host.images.flatten import Tree
from polyvisor.host.images.layers import members, write_tar
from polyvisor.model.faults import Invalid

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\xff\xfe\n\x00\x00\x00\x00\x00\x00\x00"


def info(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in more.items():
        setattr(made, key, value)
    return made


def tar(path: Path, *entries: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for entry in entries:
            entry.size = len(data) if entry.isreg() else 0
            out.addfile(entry, io.BytesIO(data))
    return path


def test_owner_mode_time_links_and_capabilities_survive(tmp_path: Path) -> None:
    text = CAPABILITY.decode("utf-8", "surrogateescape")
    layer = tar(
        tmp_path / "in",
        info(
            "bin/ping",
            mode=0o4755,
            uid=7,
            gid=3_000_000,
            mtime=1234,
            pax_headers={"SCHILY.xattr.security.capability": text},
        ),
        info("bin/p", tarfile.LNKTYPE, linkname="bin/ping"),
        info("ünï-" + "long/" * 40, tarfile.DIRTYPE, mode=0o1777),
        info("s", tarfile.SYMTYPE, linkname="/x/../y"),
        info("f", tarfile.FIFOTYPE),
        data=b"hello",
    )
    tree = Tree()
    tree.apply(members(layer, 0))
    with (tmp_path / "out").open("wb") as out:
        write_tar(tree, [layer], out)
    with tarfile.open(tmp_path / "out", errors="surrogateescape") as made:
        found = {entry.name: entry for entry in made}
        content = made.extractfile("bin/p")
        assert content is not None and content.read() == b"hello"
    first = found["bin/p"]
    assert (first.mode, first.uid, first.gid, first.mtime) == (0o4755, 7, 3_000_000, 1234)
    assert first.pax_headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == CAPABILITY
    assert (found["bin/ping"].type, found["bin/ping"].linkname) == (tarfile.LNKTYPE, "bin/p")
    assert found["s"].linkname == "/x/../y"
    assert found["f"].isfifo()
    assert any(name.startswith("ünï-") for name in found)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (info("dev/sda", tarfile.BLKTYPE), "'dev/sda' is a device node"),
        (info("dev/mem", tarfile.CHRTYPE), "'dev/mem' is a device node"),
        (info("odd", b"Z"), "'odd' is of a type"),
        (info("who", uid=2**33), "'who' has an owner out of range"),
        (info("when", pax_headers={"mtime": "nan"}), "'when' has no sane time"),
        (info("x", pax_headers={"SCHILY.xattr.user.a": "b" * 70_000}), "too many extended attributes"),
    ],
)
def test_members_that_no_image_needs_are_refused(tmp_path: Path, entry: tarfile.TarInfo, why: str) -> None:
    layer = tar(tmp_path / "in", entry)
    with pytest.raises(Invalid, match=why):
        list(members(layer, 0))


def test_labels_of_other_security_modules_are_left_out(tmp_path: Path) -> None:
    layer = tar(
        tmp_path / "in", info("x", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.a": "b"})
    )
    assert [member.xattrs for member in members(layer, 0)] == [(("user.a", "b"),)]


def _cut(data: bytes) -> bytes:
    return data[:700]


def _negative(data: bytes) -> bytes:
    return _sized(data, b"\xff" * 11 + b"\x00")


def _huge(data: bytes) -> bytes:
    return _sized(b"".join([data[:156], b"x", data[157:]]), b"77777777777\0")


def _sized(data: bytes, size: bytes) -> bytes:
    head = bytearray(data[:512])
    head[124:136] = size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[512:]


@pytest.mark.parametrize("damage", [_cut, _negative, _huge])
def test_damaged_headers_neither_loop_nor_fill_the_memory(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    layer = tar(tmp_path / "in", info("x"), data=b"y" * 600)
    layer.write_bytes(damage(layer.read_bytes()))
    with pytest.raises(Invalid):
        list(members(layer, 0))


def _global(**words: str) -> bytes:
    return tarfile.TarInfo.create_pax_global_header({f"SCHILY.xattr.user.{k}": v for k, v in words.items()})


def test_global_headers_do_not_pile_up(tmp_path: Path) -> None:
    one = info("x").tobuf(tarfile.PAX_FORMAT)
    (tmp_path / "in").write_bytes(b"".join(_global(**{f"k{n}": "v" * 10_000}) + one for n in range(20)))
    with pytest.raises(Invalid, match="too many global headers"):
        list(members(tmp_path / "in", 0))


def test_headers_chained_before_one_member_are_few(tmp_path: Path) -> None:
    chain = b"".join(_global(k="v" * 900_000) for _ in range(5))
    (tmp_path / "in").write_bytes(chain + info("x").tobuf(tarfile.PAX_FORMAT))
    with pytest.raises(Invalid, match="absurd size"):
        list(members(tmp_path / "in", 0))


@settings(deadline=None)  # files are written
@given(st.binary(max_size=1536), st.integers(0, 1023))
def test_noise_in_a_tar_never_crashes(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    path = tmp_path_factory.mktemp("noise") / "in"
    good = bytearray(tar(path, info("x"), info("y"), data=b"z" * 20).read_bytes())
    good[at : at + len(noise)] = noise
    path.write_bytes(good)
    try:
        tree = Tree()
        tree.apply(members(path, 0))
    except Invalid:
        pass
