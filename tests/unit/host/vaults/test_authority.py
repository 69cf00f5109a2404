"""An authority stays the same and signs for hosts."""

from __future__ import annotations

import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from polyvisor.host.vaults.authority import Authority, hashed_name


async def test_an_authority_is_made_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "vaults")
    first = authority.certificate
    assert Authority(tmp_path / "vaults").certificate == first
    context = await authority.context("a.example.com")
    assert await authority.context("a.example.com") is context
    assert await authority.context("b.example.com") is not context
    assert [path.name for path in (tmp_path / "vaults").iterdir()] == ["authority.pem"]
    assert (tmp_path / "vaults" / "authority.pem").stat().st_mode & 0o777 == 0o600
    trusted = authority.trusted()
    assert trusted.certificate == first and b"PRIVATE" not in first
    ssl.create_default_context(cadata=first.decode())


def test_whoever_asks_at_the_same_moment_is_told_the_same_one(tmp_path: Path) -> None:
    for round in range(20):
        authority = Authority(tmp_path / str(round))
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda _: authority.certificate, range(8)))  # noqa: B023 - done within the round
        assert set(told) == {Authority(tmp_path / str(round)).certificate}


def test_openssl_calls_its_file_the_same(tmp_path: Path) -> None:
    pem = Authority(tmp_path).certificate
    said = subprocess.run(["openssl", "x509", "-hash", "-noout"], input=pem, capture_output=True, check=True).stdout
    assert hashed_name(pem) == f"{said.decode().strip()}.0"
