"""What is sealed opens by its own key, for its own thing; an authority stays the same and signs for hosts."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from polyvisor.host.sealing import FileSafe, FileSealer
from polyvisor.host.vaults.authority import Authority, hashed_name
from polyvisor.model.faults import Internal


def test_a_text_is_sealed_for_one_thing(tmp_path: Path) -> None:
    sealer = FileSealer(tmp_path / "deep" / "key")
    sealed = sealer.seal("word", "thing")
    assert "word" not in sealed and sealer.seal("word", "thing") != sealed
    assert FileSealer(tmp_path / "deep" / "key").reveal(sealed, "thing") == "word"
    assert (tmp_path / "deep" / "key").stat().st_mode & 0o777 == 0o600
    for other, about in ((sealed, "else"), (sealed[:-6] + "AAAA==", "thing"), ("nonsense", "thing"), ("", "thing")):
        with pytest.raises(Internal):
            sealer.reveal(other, about)
    (tmp_path / "deep" / "key").unlink()
    with pytest.raises(Internal):
        FileSealer(tmp_path / "deep" / "key").reveal(sealed, "thing")
    with pytest.raises(Internal):
        FileSealer(tmp_path / "deep" / "key").reveal(FileSealer(tmp_path / "other").seal("word", "thing"), "thing")


async def test_an_authority_is_made_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "vaults")
    first = authority.certificate
    assert Authority(tmp_path / "vaults").certificate == first
    context = await authority.context("a.example.com")
    assert await authority.context("a.example.com") is context
    assert await authority.context("b.example.com") is not context
    assert [path.name for path in (tmp_path / "vaults").iterdir()] == ["authority.pem"]
    assert (tmp_path / "vaults" / "authority.pem").stat().st_mode & 0o777 == 0o600
    trusted = FileSafe(tmp_path / "vaults").trusted()
    assert trusted.certificate == first and b"PRIVATE" not in first
    ssl.create_default_context(cadata=first.decode())


def test_openssl_calls_its_file_the_same(tmp_path: Path) -> None:
    pem = Authority(tmp_path).certificate
    said = subprocess.run(["openssl", "x509", "-hash", "-noout"], input=pem, capture_output=True, check=True).stdout
    assert hashed_name(pem) == f"{said.decode().strip()}.0"
