"""The first words of TLS, as OpenSSL says them, and as nobody should."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.host.vaults.hello import More, host_in


def words(host: str | None) -> bytes:
    """What OpenSSL says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=host).do_handshake()
    return out.read()


def test_the_host_is_found_once_all_is_there() -> None:
    said = words("api.example.com")
    assert host_in(said) == "api.example.com" == host_in(said + b"more")
    for end in range(len(said)):
        with pytest.raises(More):
            host_in(said[:end])


def test_it_may_come_in_several_records() -> None:
    said = words("api.example.com")
    head, body = said[:3], said[5:]
    split = b"".join(head + len(part).to_bytes(2) + part for part in (body[:1], body[1:50], body[50:]))
    assert host_in(split) == "api.example.com"


def test_what_is_something_else_names_none() -> None:
    assert host_in(words(None)) is None
    assert host_in(b"GET / HTTP/1.1\r\n\r\n") is None and host_in(b"\x16\x02\x00\x00\x01a") is None
    assert host_in(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00") is None
    lies = b"\x01\x00\x00\x05" + b"\x03\x03abc"
    assert host_in(b"\x16\x03\x01" + len(lies).to_bytes(2) + lies) is None


@pytest.mark.parametrize(
    "name", [b"api.exa\nple.com", b".pi.example.com", b"api..xample.com", b"api/example.com", b"api.example\xffcom"]
)
def test_what_is_no_name_of_the_dns_is_none(name: bytes) -> None:
    assert host_in(words("api.example.com").replace(b"api.example.com", name)) is None


def test_a_name_is_one_however_it_is_written() -> None:
    said = words("api.example.com")
    assert host_in(said.replace(b"api.example.com", b"API.Example.co.")) == "api.example.co"
    assert host_in(words("a" * 63 + ".example.com")) == "a" * 63 + ".example.com"


@given(st.binary(max_size=400), st.integers(0, 300), st.binary(max_size=8))
def test_no_bytes_surprise_it(noise: bytes, at: int, patch: bytes) -> None:
    said = words("api.example.com")
    for data in (noise, b"\x16\x03\x01" + noise, said[:at] + patch + said[at + len(patch) :]):
        try:
            found = host_in(data)
        except More:
            continue
        assert found is None or isinstance(found, str)
