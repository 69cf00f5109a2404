"""A hostile archive writes nothing outside of the directory that it is extracted to."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from polyvisor.cli.unpack import unpack


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    """A member of five bytes, or a link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    info.size = 5 if kind == tarfile.REGTYPE else 0
    return info


def extract(target: Path, *members: tarfile.TarInfo, rename: str | None = None) -> list[str]:
    """What was left out."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"hello"))
    made.seek(0)
    target.mkdir(exist_ok=True)
    return unpack(made, target, rename)


def inside(folder: Path) -> set[str]:
    """Everything below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_files_directories_and_links_come_out(tmp_path: Path) -> None:
    left_out = extract(
        tmp_path, member("d", tarfile.DIRTYPE, mode=0o750), member("d/f", mode=0o600), member("deep/er/f"),
        member("d/soft", tarfile.SYMTYPE, "f"), member("hard", tarfile.LNKTYPE, "d/f"),
    )  # fmt: skip
    assert left_out == []
    assert inside(tmp_path) == {"d", "d/f", "d/soft", "deep", "deep/er", "deep/er/f", "hard"}
    assert (tmp_path / "d/soft").read_bytes() == (tmp_path / "hard").read_bytes() == b"hello"
    assert (tmp_path / "d").stat().st_mode & 0o7777 == 0o750
    assert (tmp_path / "d/f").stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize(("rename", "names"), [(None, {"a", "a/f"}), ("b", {"b", "b/f"}), ("", {"f"})])
def test_the_first_part_of_every_name_may_be_another(tmp_path: Path, rename: str | None, names: set[str]) -> None:
    assert extract(tmp_path, member("a", tarfile.DIRTYPE), member("a/f"), rename=rename) == []
    assert inside(tmp_path) == names


@pytest.mark.parametrize("name", ["/tmp/escaped", "../escaped", "a/../../escaped", "..", "a/.."])
def test_a_name_that_climbs_is_left_out(tmp_path: Path, name: str) -> None:
    assert len(extract(tmp_path / "in", member(name), member("good"))) == 1
    assert inside(tmp_path) == {"in", "in/good"}


@pytest.mark.parametrize("link", ["/etc/passwd", "../outside", "a/../../outside", "/"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_that_leads_out_is_left_out(tmp_path: Path, link: str, kind: bytes) -> None:
    (tmp_path / "outside").write_text("mine")
    assert len(extract(tmp_path / "in", member("l", kind, link))) == 1
    assert inside(tmp_path / "in") == set()


def test_nothing_is_written_through_a_link_that_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in/door").symlink_to("../out")
    left_out = extract(
        tmp_path / "in", member("door/f"), member("door", tarfile.DIRTYPE), member("h", tarfile.LNKTYPE, "door/x")
    )
    assert len(left_out) == 3
    assert inside(tmp_path / "out") == set()


def test_nothing_is_written_through_a_link_of_the_archive_itself(tmp_path: Path) -> None:
    links = [
        member("a", tarfile.DIRTYPE),
        member("a/up", tarfile.SYMTYPE, ".."),
        member("a/up/up2", tarfile.SYMTYPE, ".."),
    ]
    left_out = extract(tmp_path / "in", *links, member("a/up/x"), member("a/up/up2/escaped"))
    assert len(left_out) == 3
    assert inside(tmp_path) == {"in", "in/a", "in/a/up"}


def test_a_file_takes_the_place_of_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/f").symlink_to("../mine")
    assert extract(tmp_path / "in", member("f")) == []
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "in/f").is_symlink()


def test_devices_pipes_and_privileges_do_not_come_out(tmp_path: Path) -> None:
    left_out = extract(
        tmp_path, member("dev", tarfile.CHRTYPE), member("pipe", tarfile.FIFOTYPE), member("suid", mode=0o6777)
    )
    assert [text.split(":")[0] for text in left_out] == ["dev", "pipe"]
    assert (tmp_path / "suid").stat().st_mode & 0o7777 == 0o755


def test_a_directory_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/kept").touch()
    assert len(extract(tmp_path, member("d"))) == 1
    assert (tmp_path / "d/kept").exists()


@pytest.mark.parametrize("text", [b"not a tar", b"\0" * 100, b"x" * 5000])
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(tarfile.TarError):
        unpack(io.BytesIO(text), tmp_path, None)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    extract(tmp_path, member("a/b/c/d"), member("../x"), member("a/b", tarfile.SYMTYPE, "/"), member("a/b/c/d/e"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
