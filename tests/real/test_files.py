"""Files in a guest: written whole or not at all, archives both ways, nothing outside of where they belong."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from polyvisor.client import Client, Refused
from real.guests import lasting, sh
from serving import Server


@pytest.fixture(scope="module")
def vm(base: Server) -> Iterator[str]:
    """One guest for the whole module."""
    with lasting(base, memory="192M") as id:
        yield id


async def chunks(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    """`data` in pieces."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def whole(source: AsyncIterator[bytes]) -> bytes:
    """All of it."""
    return b"".join([chunk async for chunk in source])


async def test_a_file_comes_back_as_it_was_written(client: Client, vm: str) -> None:
    data = os.urandom(5 * 2**20) + b"\xc0\xdb\xdc\xdd" * 50_000
    await client.files.write(vm, "/srv/deep/er/file", chunks(data), mode=0o640)
    assert await whole(client.files.read(vm, "/srv/deep/er/file")) == data
    stat = await client.files.stat(vm, "/srv/deep/er/file")
    assert (stat.exists, stat.kind, stat.mode, stat.size, stat.uid) == (True, "file", 0o640, len(data), 0)


async def test_an_empty_file_and_one_with_an_odd_name(client: Client, vm: str) -> None:
    await client.files.write(vm, "/srv/é \n\t'\"$x", chunks(b""))
    assert await whole(client.files.read(vm, "/srv/é \n\t'\"$x")) == b""


async def test_a_write_that_breaks_off_leaves_the_old_file(client: Client, vm: str) -> None:
    await client.files.write(vm, "/srv/kept", chunks(b"old"))

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        raise ConnectionAbortedError

    with pytest.raises(Refused):
        await client.files.write(vm, "/srv/kept", broken())
    assert await whole(client.files.read(vm, "/srv/kept")) == b"old"
    assert await sh(client, vm, "ls -A /srv | grep -c kept") == "1"


async def test_what_is_not_there_or_not_a_file(client: Client, vm: str) -> None:
    assert not (await client.files.stat(vm, "/no/such")).exists
    for path, kind in (("/no/such", "NotFound"), ("/etc", "Invalid"), ("/dev/zero", "Invalid"), ("etc", "Invalid")):
        with pytest.raises(Refused) as caught:
            await whole(client.files.read(vm, path))
        assert (caught.value.kind, caught.value.problem.field) == (kind, "path"), path
    with pytest.raises(Refused) as caught:
        await client.files.write(vm, "/etc", chunks(b"x"))
    assert caught.value.kind == "Invalid"


async def test_a_link_is_told_from_what_it_leads_to(client: Client, vm: str) -> None:
    await sh(client, vm, "ln -sf passwd /etc/link")
    assert (await client.files.stat(vm, "/etc/link", follow=False)).target == "passwd"
    assert (await client.files.stat(vm, "/etc/link")).kind == "file"


async def test_a_full_disk_in_the_guest_is_said(client: Client, vm: str) -> None:
    await sh(client, vm, "mkdir -p /small && mount -t tmpfs -o size=64k none /small")
    with pytest.raises(Refused) as caught:
        await client.files.write(vm, "/small/file", chunks(bytes(2**20)))
    assert caught.value.kind == "NoCapacity"
    assert await sh(client, vm, "ls -A /small") == ""


async def test_a_tree_goes_out_as_an_archive(client: Client, vm: str) -> None:
    long = "d" * 90 + "/" + "f" * 120
    await sh(
        client, vm,
        f"mkdir -p /srv/tree/{'d' * 90} && cd /srv/tree && echo one > one && ln one two && ln -s one three "
        f"&& echo long > {long} && mkfifo pipe && chown 12:34 one && chmod 4750 one",
    )  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(await whole(client.files.read_tar(vm, "/srv/tree")))) as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert {"tree", "tree/one", "tree/two", "tree/three", "tree/pipe", f"tree/{long}"} <= members.keys()
        kinds = sorted(member.type for member in (members["tree/one"], members["tree/two"]))
        assert kinds == [tarfile.REGTYPE, tarfile.LNKTYPE]
        assert members["tree/three"].linkname == "one"
        assert (members["tree/one"].uid, members["tree/one"].gid, members["tree/one"].mode) == (12, 34, 0o4750)
        found = archive.extractfile(f"tree/{long}")
        assert found is not None and found.read() == b"long\n"


async def test_an_archive_of_the_whole_root_ends(client: Client, vm: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(await whole(client.files.read_tar(vm, "/")))) as archive:
        names = archive.getnames()
    assert "./bin/busybox" in names and not any(name.startswith("./proc/") for name in names)


def archive_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **more: int) -> tarfile.TarInfo:
    """A member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for field, value in more.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
async def test_an_archive_goes_in(client: Client, vm: str, form: int) -> None:
    long = "d" * 120 + "/" + "f" * 130
    data = archive_of(
        (named("a/", tarfile.DIRTYPE, mode=0o750, uid=7), b""), (named("a/file", mode=0o600, uid=1, gid=2), b"x" * 700),
        (named("a/hard", tarfile.LNKTYPE, "a/file"), b""), (named("a/soft", tarfile.SYMTYPE, "file"), b""),
        (named(long, mode=0o644), b"long"), (named("./b/c", mode=0o644, mtime=1_000_000), b"c"), form=form,
    )  # fmt: skip
    await client.files.write_tar(vm, f"/srv/in{form}", chunks(data, 777))
    said = await sh(client, vm, f"cd /srv/in{form} && stat -c '%a %u %g %s %h' a/file && cat a/soft b/c {long}")
    assert said == "600 1 2 700 2\n" + "x" * 700 + "clong"
    assert await sh(client, vm, f"stat -c '%a %u' /srv/in{form}/a; stat -c %Y /srv/in{form}/b/c") == "750 7\n1000000"


HOSTILE: dict[str, Callable[[], bytes]] = {
    "an absolute name": lambda: archive_of((named("/srv/evil"), b"x")),
    "a way up": lambda: archive_of((named("a/../../evil"), b"x")),
    "a link to outside": lambda: archive_of((named("out", tarfile.SYMTYPE, "/srv"), b""), (named("out/evil"), b"x")),
    "a link upwards": lambda: archive_of((named("up", tarfile.SYMTYPE, "../.."), b""), (named("up/srv/evil"), b"x")),
    "a hard link to outside": lambda: archive_of((named("evil", tarfile.LNKTYPE, "../../etc/passwd"), b"")),
    "a character device": lambda: archive_of((named("evil", tarfile.CHRTYPE, devmajor=1, devminor=1), b"")),
    "a block device": lambda: archive_of((named("evil", tarfile.BLKTYPE, devmajor=254), b"")),
    "a cut archive": lambda: archive_of((named("cut"), bytes(5000)))[:1500],
    "no archive": lambda: b"\x7fELF" + bytes(range(256)) * 40,
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_archive_is_refused(client: Client, vm: str, what: str) -> None:
    with pytest.raises(Refused) as caught:
        await client.files.write_tar(vm, "/srv/hostile/x", chunks(HOSTILE[what]()))
    assert (caught.value.status, caught.value.kind) == (422, "Invalid")
    assert await sh(client, vm, "ls /srv/evil /evil /srv/hostile/evil 2>/dev/null | wc -l") == "0"
    assert await sh(client, vm, "ls -A /srv/hostile/x | grep -c evil || true") == "0"
