"""Images of the operator's settings: fetched or read, verified, and imported once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from polyvisor.host.images import provided
from polyvisor.host.images.bounds import Bounds
from polyvisor.model.faults import Invalid, Upstream
from polyvisor.model.image import ImageSource

DATA = b"a disk" * 100_000
GOOD = hashlib.sha256(DATA).hexdigest()


@pytest_asyncio.fixture
async def url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Where `/disk` is, by way of `/moved`; all else is not found."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        head = {b"/disk": b"200 OK", b"/moved": b"302 Found\r\nLocation: /disk"}.get(path, b"404 Not Found")
        body = DATA if path == b"/disk" else b""
        writer.write(b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_what_is_fetched_is_what_its_checksum_says(url: str, tmp_path: Path) -> None:
    source = ImageSource(GOOD, url=f"{url}/moved")
    found = await provided.fetch(source, "one", tmp_path / "one", Bounds())
    assert found.read_bytes() == DATA
    with pytest.raises(Upstream, match="is not what its checksum says"):
        await provided.fetch(replace(source, sha256="0" * 64), "one", tmp_path / "two", Bounds())
    with pytest.raises(Upstream, match="cannot be fetched"):
        await provided.fetch(replace(source, url=f"{url}/gone"), "one", tmp_path / "three", Bounds())
    with pytest.raises(Invalid, match="the size of the file"):
        await provided.fetch(source, "one", tmp_path / "four", Bounds(content=1000))


async def test_a_file_is_read_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(DATA)
    source = ImageSource(GOOD, file=str(file))
    assert await provided.fetch(source, "one", tmp_path / "unused", Bounds()) == file
    with pytest.raises(Upstream, match="is not what its checksum says"):
        await provided.fetch(replace(source, sha256="f" * 64), "one", tmp_path / "unused", Bounds())
    with pytest.raises(Upstream, match="cannot be read"):
        await provided.fetch(replace(source, file=f"{file}.gone"), "one", tmp_path / "unused", Bounds())
    assert not (tmp_path / "unused").exists()
