"""Images by the real tools: skopeo, sqfstar, qemu-img and a registry on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import struct
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from polyvisor.host.images.bounds import Bounds
from polyvisor.host.images.local import LocalImages, Settings
from polyvisor.model.faults import Exists, Fault, Forbidden, Invalid, NotFound, Unsupported, Upstream
from polyvisor.model.ids import Digest
from polyvisor.model.image import Image, ImageKind, ImageSource, ImageState
from polyvisor.model.units import GIB, KIB, MIB
from real.archives import as_tar, docker_save, entry, oci_layout, sha
from real.registries import push

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\xff\xfe\n\x00\x00\x00\x00\x00\x00\x00"
LOWER = [
    entry("bin", kind=tarfile.DIRTYPE, mode=0o755),
    entry("bin/app", b"#!/bin/sh\n", mode=0o4755, uid=7, gid=8, mtime=1_000_000_000,
          pax_headers={"SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape")}),
    entry("bin/same", kind=tarfile.LNKTYPE, linkname="bin/app"),
    entry("etc/gone", b"x"),
    entry("var/cache/old", b"x"),
    entry("tmp", kind=tarfile.DIRTYPE, mode=0o1777),
]  # fmt: skip
UPPER = [
    entry("etc/.wh.gone"),
    entry("var/cache/.wh..wh..opq"),
    entry("var/cache/new", b"new"),
    entry("sbin", kind=tarfile.SYMTYPE, linkname="bin"),
    entry("sbin/late", b"late"),
    entry("bin/app", b"replaced", mode=0o755),
]
TREE = {"bin", "bin/app", "bin/same", "bin/late", "etc", "var", "var/cache", "var/cache/new", "sbin", "tmp"}


def quiet(text: str, fraction: float | None) -> None:
    pass


@pytest.fixture
def images(tmp_path: Path) -> LocalImages:
    return LocalImages(tmp_path / "images", Settings(bounds=Bounds(content=GIB, disk=64 * GIB)))


def leftovers(images: LocalImages, root: Path) -> list[str]:
    return [path.name for path in root.glob("images/.work-*")]


def unsquashed(path: Path, into: Path) -> Path:
    # Only root can restore owners and capabilities; what others cannot is told by the exit code.
    argv = ["unsquashfs", "-q", "-n", "-d", str(into), str(path)]
    subprocess.run(argv, check=os.geteuid() == 0, capture_output=True)
    return into


async def check_tree(images: LocalImages, image: Image, into: Path) -> None:
    root = unsquashed(await images.path(image.id), into)
    assert {str(path.relative_to(root)) for path in root.rglob("*")} == TREE
    assert (root / "bin/app").read_bytes() == b"replaced"
    same = (root / "bin/same").stat()
    assert (root / "bin/same").read_bytes() == b"#!/bin/sh\n"
    assert same.st_mtime == 1_000_000_000
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "sbin").readlink() == Path("bin")
    if os.geteuid() == 0:
        assert (same.st_mode & 0o7777, same.st_uid, same.st_gid) == (0o4755, 7, 8)
        assert os.getxattr(root / "bin/same", "security.capability") == CAPABILITY


async def test_a_docker_save_archive_becomes_one_root(images: LocalImages, tmp_path: Path) -> None:
    told: list[str] = []
    archive = docker_save(tmp_path / "app.tar", LOWER, UPPER)
    image = await images.import_archive(archive, "team/app:1", lambda text, fraction: told.append(text))
    assert (image.kind, image.state, image.names) == (ImageKind.ROOT, ImageState.READY, ("team/app:1",))
    assert image.config.entrypoint == ("/bin/app",)
    assert image.config.env == (("PATH", "/bin"), ("EMPTY", ""), ("A", "b=c"))
    assert (image.config.workdir, image.config.user, image.config.ports) == ("/srv", "7:8", ("80/tcp",))
    assert image.config.labels == (("team", "blue"),)
    await check_tree(images, image, tmp_path / "out")
    assert told[-1] == "ready"
    assert len(set(told)) > 3
    assert leftovers(images, tmp_path) == []
    again = LocalImages(tmp_path / "images")
    assert await again.list() == [image]
    assert await again.pull(image.id, quiet) == image
    with pytest.raises(NotFound):  # what one project calls an archive means nothing to another
        await again.pull("team/app:1", quiet)


async def test_a_gzipped_archive_is_unpacked_first(images: LocalImages, tmp_path: Path) -> None:
    archive = docker_save(tmp_path / "app.tar", LOWER, UPPER)
    (tmp_path / "app.tar.gz").write_bytes(gzip.compress(archive.read_bytes()))
    image = await images.import_archive(tmp_path / "app.tar.gz", "app", quiet)
    await check_tree(images, image, tmp_path / "out")


@pytest.mark.parametrize("how", ["gzip", "zstd", "plain"])
async def test_an_oci_layout_becomes_the_same_root(images: LocalImages, tmp_path: Path, how: str) -> None:
    layout = oci_layout(tmp_path / "layout:odd name", LOWER, UPPER, how=how)
    image = await images.import_archive(layout, "app", quiet)
    index = json.loads((layout / "index.json").read_text())
    assert image.id == index["manifests"][0]["digest"]
    await check_tree(images, image, tmp_path / "out")
    packed = await images.import_archive(as_tar(layout, tmp_path / "layout.tar"), "packed", quiet)
    assert packed.id == image.id
    assert packed.names == ("app", "packed")


async def refused(images: LocalImages, path: Path, why: str, fault: type[Fault] = Invalid) -> None:
    with pytest.raises(fault, match=why):
        await images.import_archive(path, "bad", quiet)
    assert await images.list() == []
    assert list((path.parent / "images").iterdir()) == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (entry("/etc/passwd", b"x"), "'/etc/passwd' is an absolute path"),
        (entry("../../etc/passwd", b"x"), "climbs"),
        (entry("dev/sda", kind=tarfile.BLKTYPE, devmajor=8), "'dev/sda' is a device node"),
        (entry("x", kind=tarfile.LNKTYPE, linkname="../../etc/shadow"), "climbs"),
    ],
)
async def test_hostile_layers_are_refused_by_name(
    images: LocalImages, tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes], why: str
) -> None:
    await refused(images, docker_save(tmp_path / "bad.tar", [bad]), why)
    await refused(images, oci_layout(tmp_path / "bad", [bad]), why)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
async def test_a_bomb_is_stopped_while_it_unpacks(tmp_path: Path, how: str) -> None:
    images = LocalImages(tmp_path / "images", Settings(bounds=Bounds(content=4 * MIB)))
    layout = oci_layout(tmp_path / "bomb", [entry("zeros", bytes(64 * MIB))], how=how)
    await refused(images, layout, "unpack to more|too large")


@pytest.mark.parametrize("layers", [[64], [3, 3, 3]])
async def test_an_archive_of_too_much_is_stopped(tmp_path: Path, layers: list[int]) -> None:
    images = LocalImages(tmp_path / "images", Settings(bounds=Bounds(content=4 * MIB)))
    entries = [[entry(f"f{n}", os.urandom(size * MIB))] for n, size in enumerate(layers)]
    await refused(images, docker_save(tmp_path / "big.tar", *entries), "unpack to more|packed size")


async def test_blobs_that_are_not_what_they_say_are_refused(images: LocalImages, tmp_path: Path) -> None:
    layout = oci_layout(tmp_path / "layout", LOWER)
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes() + b"x")
    await refused(images, layout, "damaged|another digest|size")
    blob.unlink()
    blob.symlink_to("/etc/hostname")
    await refused(images, layout, "not a file")
    other = oci_layout(tmp_path / "foreign", LOWER, urls=["http://registry.example/blob"])
    await refused(images, other, "foreign|damaged")
    arm = oci_layout(tmp_path / "arm", LOWER, arch="s390x")
    await refused(images, arm, "s390x|damaged", Fault)


async def test_a_pull_tells_its_progress_and_keeps_the_registrys_digest(
    images: LocalImages, tmp_path: Path, registry: str
) -> None:
    digest = push(oci_layout(tmp_path / "layout", LOWER, UPPER), f"{registry}/team/app:1")
    told: list[tuple[str, float | None]] = []
    name = f"{registry}/team/app:1"
    image = await images.pull(name, lambda text, fraction: told.append((text, fraction)), trusted=True)
    assert (image.id, image.names) == (digest, (name,))
    await check_tree(images, image, tmp_path / "out")
    assert any(text.startswith("fetching") and fraction is not None for text, fraction in told)
    assert told[-1] == ("ready", 1.0)
    told.clear()
    assert await images.pull(f"{registry}/team/app@{digest}", quiet, trusted=True)
    assert not any(text.startswith("fetching") for text, _ in told)


async def test_pulls_of_one_image_are_done_once(tmp_path: Path, registry: str) -> None:
    push(oci_layout(tmp_path / "layout", LOWER), f"{registry}/a:1")
    push(tmp_path / "layout", f"{registry}/b:1")
    images = LocalImages(tmp_path / "images", Settings(default_registry=registry))
    told: list[str] = []
    names = [f"{registry}/a:1", "a:1", f"{registry}/b:1"] * 3
    pulls = [images.pull(name, lambda text, fraction: told.append(text), trusted=True) for name in names]
    found = await asyncio.gather(*pulls)
    assert len({image.id for image in found}) == 1
    # One writing, told to all that wait under the name that came first: six say `a`, three say `b`.
    assert told.count("writing the root file system") in (3, 6)
    assert len(await images.list()) == 1
    assert not images._locks  # nobody waits for one any more
    asking = asyncio.Event()
    first = asyncio.create_task(images.pull("a:1", lambda text, fraction: asking.set()))
    await asking.wait()
    shown = [image for image in await images.list() if image.state is ImageState.PULLING]
    assert [image.names for image in shown] == [("a:1",)]
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    await images.close()
    assert leftovers(images, tmp_path) == []


async def test_what_a_registry_does_not_have_is_not_found(images: LocalImages, registry: str) -> None:
    with pytest.raises(NotFound):
        await images.pull(f"{registry}/nothing:1", quiet, trusted=True)
    with pytest.raises(NotFound, match="no default registry"):
        await images.pull("nothing", quiet)
    with pytest.raises(Upstream):
        await images.pull("127.0.0.1:1/nothing", quiet, trusted=True)
    with pytest.raises(NotFound):
        await images.pull("sha256:" + "0" * 64, quiet)


async def test_only_allowed_registries_are_asked(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images", Settings(registries=frozenset({"r.example"})))
    with pytest.raises(Forbidden):
        await images.pull("127.0.0.1:1/a", quiet, trusted=True)


async def test_an_imported_name_never_stands_for_a_registrys(images: LocalImages, tmp_path: Path) -> None:
    await images.import_archive(docker_save(tmp_path / "a.tar", LOWER), "127.0.0.1:1/team/app:1", quiet)
    with pytest.raises(Upstream):
        await images.pull("127.0.0.1:1/team/app:1", quiet, trusted=True)
    with pytest.raises(Exists):
        await images.import_archive(tmp_path / "a.tar", "busybox", quiet)


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True)


async def test_a_qcow2_is_rewritten_as_our_own(images: LocalImages, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(MIB) + bytes(3 * MIB) + os.urandom(4096))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", raw, tmp_path / "disk.qcow2")
    image = await images.import_archive(tmp_path / "disk.qcow2", "disk", quiet)
    assert image.id == "sha256:" + sha((tmp_path / "disk.qcow2").read_bytes())
    assert (image.kind, image.virtual_size) == (ImageKind.DISK, 4 * MIB + 4096)
    path = await images.path(image.id)
    assert path.stat().st_mode & 0o777 == 0o444
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, tmp_path / "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == raw.read_bytes()
    await images.remove(image.id)
    await images.remove(image.id)
    assert await images.list() == []
    with pytest.raises(NotFound):
        await images.path(Digest(image.id))


async def test_an_image_of_the_settings_is_imported_once(images: LocalImages, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", disk, "64M")
    source = ImageSource(sha(disk.read_bytes()), file=str(disk))
    with pytest.raises(Upstream, match="is not what its checksum says"):
        await images.provide(replace(source, sha256="0" * 64), "os/one", quiet)
    assert await images.list() == []
    made = await images.provide(source, "os/one", quiet)
    assert (made.kind, made.virtual_size, made.names) == (ImageKind.DISK, 64 * MIB, ("os/one",))
    disk.unlink()
    assert await images.provide(source, "os/one", quiet) == made  # it is not asked for again
    assert leftovers(images, tmp_path / "images") == []


async def test_a_raw_disk_is_never_probed(images: LocalImages, tmp_path: Path) -> None:
    inner = tmp_path / "inner.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", inner, "1G")
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"\0" * 510 + b"\x55\xaa" + inner.read_bytes() + bytes(-inner.stat().st_size % 512))
    image = await images.import_archive(raw, "disk", quiet)
    assert image.virtual_size == raw.stat().st_size


@pytest.mark.parametrize("kind", ["backing", "data", "huge", "snapshot", "encrypted"])
async def test_hostile_qcow2_files_are_refused(images: LocalImages, tmp_path: Path, kind: str) -> None:
    bad = tmp_path / "bad.qcow2"
    if kind == "backing":
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", bad, "1G")
        await refused(images, bad, "backing file")
    elif kind == "data":
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/d,data_file_raw=on", bad, "1G")
        await refused(images, bad, "external data file")
    elif kind == "huge":
        qemu_img("create", "-q", "-f", "qcow2", bad, "65G")
        await refused(images, bad, "a disk of 69793218560 bytes")
    elif kind == "snapshot":
        qemu_img("create", "-q", "-f", "qcow2", bad, "1M")
        qemu_img("snapshot", "-c", "one", bad)
        await refused(images, bad, "internal snapshots")
    else:
        qemu_img("create", "-q", "-f", "qcow2", bad, "1M")
        with bad.open("r+b") as file:  # to make a real one, qemu-img measures the CPU, which fails on a busy machine
            file.seek(32)
            file.write((2).to_bytes(4, "big"))
        await refused(images, bad, "encrypted")


async def test_a_qcow2_that_unpacks_to_too_much_is_stopped(tmp_path: Path) -> None:
    """Every entry of the tables points at the same cluster: 64 KiB of data, 2 GiB of disk."""
    bad = tmp_path / "bad.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=off", bad, "2G")
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", str(bad)]
    await asyncio.to_thread(subprocess.run, write, check=True, capture_output=True)
    data = bytearray(bad.read_bytes())
    l1_at = struct.unpack_from(">Q", data, 40)[0]
    l2_at = struct.unpack_from(">Q", data, l1_at)[0] & 0x00FFFFFFFFFFFE00
    one = data[l2_at : l2_at + 8]
    data[l2_at : l2_at + 64 * KIB] = one * (8 * KIB)
    for n in range(1, 4):
        data[l1_at + 8 * n : l1_at + 8 * n + 8] = data[l1_at : l1_at + 8]
    bad.write_bytes(data)
    images = LocalImages(tmp_path / "images", Settings(bounds=Bounds(content=bad.stat().st_size + MIB)))
    await refused(images, bad, "unpacks to too much")


@pytest.mark.parametrize(("form", "name"), [("vmdk", "VMDK"), ("vdi", "VDI"), ("vhdx", "VHDX"), ("vpc", "VHD")])
async def test_other_disk_formats_are_refused_clearly(
    images: LocalImages, tmp_path: Path, form: str, name: str
) -> None:
    qemu_img("create", "-q", "-f", form, tmp_path / "disk", "8M")
    await refused(images, tmp_path / "disk", name, Unsupported)


async def test_what_is_no_image_is_refused(images: LocalImages, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello" * 1000)
    await refused(images, tmp_path / "text", "neither")
    (tmp_path / "link").symlink_to("/etc/passwd")
    await refused(images, tmp_path / "link", "not a regular file")
    await refused(images, tmp_path / "absent", "no file", NotFound)


async def test_busybox_is_built_from_this_machine_and_twice_the_same(tmp_path: Path) -> None:
    one, two = LocalImages(tmp_path / "images"), LocalImages(tmp_path / "two")
    first = await one.pull("busybox", quiet)
    assert await one.build("busybox", quiet) == first
    assert (await two.build("busybox", quiet)).id == first.id
    assert first.config.cmd == ()
    root = unsquashed(await one.path(first.id), tmp_path / "out")
    say = [str(root / "bin/busybox"), "echo", "hi"]
    done = await asyncio.to_thread(subprocess.run, say, capture_output=True, check=True)
    assert bytes(done.stdout) == b"hi\n"
    assert (root / "bin/sh").readlink() == Path("/bin/busybox")
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


async def test_half_made_things_are_swept_at_start(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images")
    image = await images.build("busybox", quiet)
    half = tmp_path / "images/.work-abc"
    half.mkdir()
    (half / "disk").write_bytes(b"x")
    broken = tmp_path / "images" / ("0" * 64)
    broken.mkdir()
    (broken / "image.json").write_text("{")
    again = LocalImages(tmp_path / "images")
    assert not half.exists()
    assert await again.list() == [image]
    with pytest.raises(NotFound):
        await again.build("nothing", quiet)
