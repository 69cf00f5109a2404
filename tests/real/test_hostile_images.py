"""Hostile images, end to end: the API and the command say what is wrong, and nothing of them is left anywhere."""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
import subprocess
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from real.archives import Layer, as_tar, docker_save, entry, oci_layout, tar
from serving import Server

Make = Callable[[Path], Path]


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True)


def listed(folder: Path) -> list[str]:
    """What is in a directory."""
    return sorted(path.name for path in folder.iterdir())


def left(server: Server) -> dict[str, list[str]]:
    """What is in the directories that imports go through."""
    return {name: listed(server.data / name) for name in ("images", "uploads")}


def refuse(server: Server, file: Path, why: str, kind: str = "Invalid", field: str = "image") -> None:
    """Both doors refuse it, by name, and everything is as it was before."""
    name, before, around = "t" + uuid.uuid4().hex[:10], left(server), listed(file.parent)
    how: dict[str, Any] = {"headers": {"X-API-Key": server.facts["api_key"]}, "timeout": 120, "trust_env": False}
    images = f"{server.facts['url']}/api/v1/images"
    with file.open("rb") as body:
        answer = httpx.put(images, params={"name": name}, content=body, **how)
    said: dict[str, Any] = {key: value for key, value in answer.json().items() if value is not None}
    assert (answer.status_code, said.get("kind"), said.get("field")) == (422, kind, field), said
    assert why in said["message"], said
    done = server.cli("images", "import", name, str(file), "--json")
    assert (done.returncode, json.loads(done.stderr)) == (1, said)
    assert (left(server), listed(file.parent)) == (before, around)
    assert httpx.get(f"{images}/{name}", **how).status_code == 404


# -- tars ------------------------------------------------------------------------------------------------------------

OUT = entry("out", kind=tarfile.SYMTYPE, linkname="../../../..")
LAYERS: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "absolute": ([entry("/etc/passwd", b"x")], "'/etc/passwd' is an absolute path"),
    "climbing": ([entry("a/../../etc/passwd", b"x")], "climbs with '..'"),
    "through a symlink": ([OUT, entry("out/etc/cron.d/evil", b"x")], "leaves the image through a symlink"),
    "block device": ([entry("dev/sda", kind=tarfile.BLKTYPE, devmajor=8)], "is a device node"),
    "character device": ([entry("dev/mem", kind=tarfile.CHRTYPE, devmajor=1, devminor=1)], "is a device node"),
    "hard link out": ([entry("x", kind=tarfile.LNKTYPE, linkname="../../etc/shadow")], "climbs with '..'"),
    "absolute hard link": ([entry("x", kind=tarfile.LNKTYPE, linkname="/etc/shadow")], "is an absolute path"),
    "hard link through a symlink": (
        [OUT, entry("x", kind=tarfile.LNKTYPE, linkname="out/etc/shadow")], "leaves the image through a symlink",
    ),
    "hard link to nothing": (
        [entry("x", kind=tarfile.LNKTYPE, linkname="etc/shadow")], "what is not a file of the image",
    ),
    "whiteout of the parent": ([entry("a/.wh...", b"")], "is a whiteout of nothing"),
    "below a whiteout": ([entry(".wh.a/b", b"")], "is below a whiteout"),
    "the root replaced": ([entry("./", kind=tarfile.SYMTYPE, linkname="/etc")], "replaces the root directory"),
    "symlinks in a circle": (
        [entry("a", kind=tarfile.SYMTYPE, linkname="b"), entry("b", kind=tarfile.SYMTYPE, linkname="a"),
         entry("a/x", b"x")], "too many symlinks",
    ),
    "a name too long": ([entry("x" * 300, b"x")], "too long a name"),
    "a file as a parent": ([entry("a", b"x"), entry("a/b", b"x")], "a parent that is not a directory"),
    "an owner out of range": ([entry("x", b"x", uid=2**33)], "an owner out of range"),
    "too many attributes": (
        [entry(f"{n}", pax_headers={"SCHILY.xattr.user.a": "x" * 65_000}) for n in range(2_100)],
        "size of names and attributes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LAYERS)
def test_hostile_layers_are_refused(base: Server, tmp_path: Path, what: str) -> None:
    layer, why = LAYERS[what]
    refuse(base, docker_save(tmp_path / "evil.tar", layer), why)


def _damaged(root: Path) -> Path:
    layout = oci_layout(root / "layout", [entry("x", b"x" * 5000)])
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    return as_tar(layout, root / "evil.tar")


def _mislabelled(root: Path) -> Path:
    """Whole and of the digest it says, but not the layer that the config names."""
    archive = docker_save(root / "good.tar", [entry("x", b"good")])
    with tarfile.open(archive) as made:
        files: Layer = [(info, made.extractfile(info).read()) for info in made]  # type: ignore[union-attr]  # files all
    other = tar([entry("x", b"evil")])
    swapped = [entry(i.name, other if i.name.endswith("layer.tar") else data) for i, data in files]
    archive.unlink()
    (root / "evil.tar").write_bytes(tar(swapped))
    return root / "evil.tar"


def _linked(root: Path) -> Path:
    layout = oci_layout(root / "layout", [entry("x", b"x")])
    blob = next((layout / "blobs/sha256").iterdir())
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    return as_tar(layout, root / "evil.tar")


def _escaping(root: Path) -> Path:
    layout = oci_layout(root / "layout", [entry("x", b"x")])
    with tarfile.open(as_tar(layout, root / "evil.tar"), "a") as made:
        info, _ = entry("../../../../../../../../tmp/polyvisor-was-here")
        made.addfile(info)
    return root / "evil.tar"


def _foreign(root: Path) -> Path:
    return as_tar(oci_layout(root / "layout", [entry("x")], urls=["http://registry.example/x"]), root / "evil.tar")


def _bomb(root: Path) -> Path:
    """40 GiB of zeros, twice packed into 40 KB: what a layer unpacks to is counted while it does."""
    packer = gzip.compress(gzip.compress(bytes(2**20)) * 1024)
    (root / "evil.tar.gz").write_bytes(packer)
    return root / "evil.tar.gz"


def _plain_tar(root: Path) -> Path:
    (root / "evil.tar").write_bytes(tar([entry("etc/passwd", b"x")]))
    return root / "evil.tar"


def _pointing(root: Path) -> Path:
    """A manifest that names a file of the host as its config."""
    manifest = [{"Config": "../../../../etc/passwd", "RepoTags": [], "Layers": ["/etc/shadow"]}]
    (root / "evil.tar").write_bytes(tar([entry("manifest.json", json.dumps(manifest).encode())]))
    return root / "evil.tar"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_damaged, "damaged"), (_mislabelled, "damaged"), (_linked, "damaged"), (_foreign, "damaged"),
        (_bomb, "packed more than once"), (_plain_tar, "neither of docker save nor an OCI layout"),
        (_pointing, "damaged"),
    ],
)  # fmt: skip
def test_hostile_archives_are_refused(base: Server, tmp_path: Path, make: Make, why: str) -> None:
    refuse(base, make(tmp_path), why)


def test_an_archive_that_would_write_outside_writes_nothing_there(base: Server, tmp_path: Path) -> None:
    before = left(base)
    done = base.cli("images", "import", "evil", str(_escaping(tmp_path)), "--json")
    assert not Path("/tmp/polyvisor-was-here").exists()
    if done.returncode == 0:  # the member is none that the image is made of
        base.cli("images", "rm", "evil", check=True)
    assert left(base)["uploads"] == before["uploads"] == []


# -- disks -----------------------------------------------------------------------------------------------------------


def made(root: Path, *options: str, size: str = "1M") -> Path:
    path = root / "evil.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    return path


def patched(root: Path, at: int, form: str, *values: int) -> Path:
    """A good qcow2 with other numbers in its header."""
    path = made(root)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack(form, *values))
    return path


def _snapshots(root: Path) -> Path:
    path = made(root)
    for name in ("one", "two"):
        qemu_img("snapshot", "-c", name, path)
    return path


def _encrypted(root: Path) -> Path:
    secret = ("--object", "secret,id=s,data=abc")
    return made(root, *secret, "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10")


def _data_file(root: Path) -> Path:
    path = made(root, "-o", f"data_file={root}/d,data_file_raw=on")
    (root / "d").unlink()
    return path


def _looping(root: Path) -> Path:
    """Its L1 table points at the header: tables that are nonsense within the file."""
    path = made(root)
    with path.open("r+b") as file:
        file.seek(0x30000)
        file.write(struct.pack(">Q", 1 << 63 | 0x30200))
    return path


DISKS: dict[str, tuple[Make, str]] = {
    "backing file": (lambda r: made(r, "-u", "-b", "/etc/passwd", "-F", "raw"), "has a backing file"),
    "backing format alone": (lambda r: patched(r, 104 + 8, ">II4s"[:3], 0xE2792ACA, 4), "backing format"),
    "data file": (_data_file, "external data file"),
    "too large": (lambda r: made(r, size="2T"), "is a disk of"),
    "no size": (lambda r: patched(r, 24, ">Q", 0), "is a disk of 0 bytes"),
    "encrypted": (_encrypted, "is encrypted"),
    "encrypted the old way": (lambda r: patched(r, 32, ">I", 1), "is encrypted"),
    "unknown features": (lambda r: patched(r, 72, ">Q", 1 << 40), "features unknown here"),
    "corrupt": (lambda r: patched(r, 72, ">Q", 2), "marked as corrupt"),
    "snapshots": (_snapshots, "internal snapshots"),
    "L1 too large": (lambda r: patched(r, 36, ">I", 2**31), "L1 table"),
    "L1 too small": (lambda r: patched(r, 36, ">I", 0), "L1 table"),
    "L1 outside": (lambda r: patched(r, 40, ">Q", 1 << 40), "L1 table outside the file"),
    "references outside": (lambda r: patched(r, 48, ">Q", 1 << 40), "reference count table outside"),
    "references huge": (lambda r: patched(r, 56, ">I", 2**31), "reference count table"),
    "clusters huge": (lambda r: patched(r, 20, ">I", 40), "clusters of 2^40"),
    "version 9": (lambda r: patched(r, 4, ">I", 9), "version 9"),
    "tables of nonsense": (_looping, "tables are damaged"),
}


@pytest.mark.parametrize("what", DISKS)
def test_hostile_disks_are_refused(base: Server, tmp_path: Path, what: str) -> None:
    make, why = DISKS[what]
    refuse(base, make(tmp_path), why)


@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/passwd\" 0\n", "Unsupported", "VMDK"),
        (b"\0" * 0x40 + b"\x7f\x10\xda\xbe" + bytes(4096), "Unsupported", "VDI"),
        (b"\0" * 510 + b"\x55\xaa" + b"x", "Invalid", "512-byte sectors"),
        (b"", "Invalid", "neither a docker or OCI archive"),
        (b"#!/bin/sh\n", "Invalid", "neither a docker or OCI archive"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(base: Server, tmp_path: Path, data: bytes, kind: str, why: str) -> None:
    (tmp_path / "evil").write_bytes(data)
    refuse(base, tmp_path / "evil", why, kind)


# -- a full disk -----------------------------------------------------------------------------------------------------


def _noise(root: Path) -> Path:
    return docker_save(root / "big.tar", [entry("noise", os.urandom(40 * 2**20))])


def _packed(root: Path) -> Path:
    (root / "big.tar.gz").write_bytes(gzip.compress(bytes(257) + b"ustar" + bytes(80 * 2**20), 1))
    return root / "big.tar.gz"


def _raw(root: Path) -> Path:
    (root / "big.raw").write_bytes(bytes(510) + b"\x55\xaa" + os.urandom(40 * 2**20))
    return root / "big.raw"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_is_told_as_such_by_every_kind_of_import(another: Callable[..., Server], tmp_path: Path) -> None:
    """On a file system of 24 MiB, mounted where only that server sees it."""
    images = tmp_path / "data0" / "images"
    mount = f'mkdir -p {images} && mount -t tmpfs -o size=24m tmpfs {images} && exec "$@"'
    server = another(prefix=("unshare", "--mount", "--", "sh", "-c", mount, "sh"))
    for make in (_noise, _packed, _raw):
        done = server.cli("images", "import", "big", str(make(tmp_path)), "--json")
        assert json.loads(done.stderr)["kind"] == "NoCapacity", (make, done.stderr)
        assert listed(Path(f"/proc/{server.pid}/root{images}")) == []
        assert listed(server.data / "uploads") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_an_upload_that_finds_no_room_is_refused_before_it_comes(
    another: Callable[..., Server], tmp_path: Path
) -> None:
    uploads = tmp_path / "data0" / "uploads"
    mount = f'mkdir -p {uploads} && mount -t tmpfs -o size=600m tmpfs {uploads} && exec "$@"'
    server = another(prefix=("unshare", "--mount", "--", "sh", "-c", mount, "sh"))
    where = urlsplit(server.facts["url"])
    head = f"PUT /api/v1/images?name=a HTTP/1.1\r\nHost: x\r\nX-API-Key: {server.facts['api_key']}\r\n"
    with socket.create_connection((where.hostname, where.port), 20) as link:
        link.sendall(f"{head}Content-Length: {2**30}\r\n\r\n".encode())  # and not a byte of it
        assert link.recv(4096).startswith(b"HTTP/1.1 507 ")
    small = tmp_path / "small"
    small.write_bytes(os.urandom(160 * 2**20))
    done = server.cli("images", "import", "a", str(small), "--json")
    assert json.loads(done.stderr)["kind"] == "NoCapacity"
    assert listed(Path(f"/proc/{server.pid}/root{uploads}")) == []
