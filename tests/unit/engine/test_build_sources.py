"""What is read of a stranger's source, and what is refused."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from polyvisor.engine import sources
from polyvisor.engine.buildlog import Log, log_of
from polyvisor.engine.sources import look
from polyvisor.model.build import BuildState
from polyvisor.model.faults import Invalid
from polyvisor.server.wiring import utc_now


def packed(*members: tuple[str, bytes, bytes]) -> bytes:
    """A tar of members: a name, what is in it, its type."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def file(name: str, data: bytes) -> tuple[str, bytes, bytes]:
    return name, data, tarfile.REGTYPE


def test_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "source.tar.gz"
    lock = b"x" * 3_000_000
    path.write_bytes(
        gzip.compress(packed(file("big", b"\0" * 9_000_000), file("./go.sum", lock), file("./Dockerfile", b"FROM a\n")))
    )
    found = look(path)
    assert found.dockerfile == "FROM a\n"
    assert found.locks == {"go.sum": "sha256:" + hashlib.sha256(lock).hexdigest()}
    assert found.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_a_file_at_its_root_is_a_dockerfile(tmp_path: Path) -> None:
    path = tmp_path / "source.tar.gz"
    linked = ("Dockerfile", b"", tarfile.SYMTYPE)
    path.write_bytes(gzip.compress(packed(file("sub/Dockerfile", b"FROM a"), linked)))
    assert look(path).dockerfile is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x" * 2000, packed(file("Dockerfile", b"FROM a")), gzip.compress(b"x" * 2000),
        gzip.compress(packed(file("x", b"y" * 5000)))[:-30],
        gzip.compress(packed(file("Dockerfile", b"#" * 1_100_000))),
        gzip.compress(packed(file("Dockerfile", b"\xff\xfe"))),
        gzip.compress(packed(("x", b"9" * 2_000_000, tarfile.XHDTYPE), file("y", b""))),
    ],
    ids=["empty", "noise", "plain", "no tar", "cut", "long", "no text", "header"],
)  # fmt: skip
def test_what_is_none_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "source.tar.gz"
    path.write_bytes(data)
    with pytest.raises(Invalid, match=r"source: ") as refused:
        look(path)
    assert refused.value.field == "source"


def test_a_bomb_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "source.tar.gz"
    path.write_bytes(gzip.compress(packed(file("zeros", bytes(5_000_000)), file("Dockerfile", b"FROM a"))))
    monkeypatch.setattr(sources, "_LARGEST", 1_000_000)
    with pytest.raises(Invalid, match="larger than"):
        look(path)
    monkeypatch.setattr(sources, "_LARGEST", 10**9)
    monkeypatch.setattr(sources, "_MOST", 1)
    with pytest.raises(Invalid, match="members"):
        look(path)


async def test_a_log_has_a_limit() -> None:
    log = Log(utc_now)
    for number in range(6000):
        log.line(str(number))
    kept = [news.line async for news in log.news(follow=False, pause=1)]
    assert (len(kept), kept[0], kept[-1]) == (5000, "1000", "5999")
    log.line("x" * 999_999)
    kept = [news.line async for news in log.news(follow=False, pause=1)]
    assert len(kept) == 1


async def test_who_follows_a_log_gets_all_of_it_once() -> None:
    log = Log(utc_now)
    got: list[str | None] = []

    async def follow() -> None:
        async for news in log.news(follow=True, pause=0.05):
            got.append(news.line)
            await asyncio.sleep(0)

    log.line("0")
    task = asyncio.create_task(follow())
    for number in range(1, 50):
        log.line(str(number))
        await asyncio.sleep(0)
    await asyncio.sleep(0.2)
    log.close()
    await task
    assert [one for one in got if one is not None] == [str(number) for number in range(50)]
    assert None in got  # it was told that nothing was


async def test_a_log_is_the_same_after_it_was_written_down() -> None:
    log = Log(utc_now, ["hunter2\nsecond line\n"])
    log.state(BuildState.BUILDING)
    log.line("a hunter2 b second line")
    log.close()
    again = log_of(log.text(), utc_now)
    for one in (log, again):
        found = [(news.line, news.state) async for news in one.news(follow=True, pause=1)]
        assert found == [(None, BuildState.BUILDING), ("a *** b ***", None)]
