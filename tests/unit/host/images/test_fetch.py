"""What is made of a fetcher's last words, and of a disk that is full."""

from __future__ import annotations

import errno

import pytest

from polyvisor.host.images.fetch import _judge
from polyvisor.host.images.room import needing_room
from polyvisor.host.run import Completed
from polyvisor.model.faults import Fault, Invalid, NoCapacity, NotFound, Upstream

SAYS = 'time="2026-01-01T00:00:00Z" level=fatal msg="{}"\n'


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("reading manifest 1 in r.example/a: manifest unknown", NotFound),
        ("reading manifest 1 in r.example/a: name unknown: repository name not known to registry", NotFound),
        ("fetching: StatusCode: 404, not found", NotFound),
        ("Get https://r.example/a/404:1: dial tcp: connection refused", Upstream),
        ("pinging container registry 404.example: connection refused", Upstream),
        ("dial tcp: lookup r.example: no such host, name not found", Upstream),
        ("requested access to the resource is denied", Upstream),
        ("writing blob: storing blob: write /x/dir-put-blob: no space left on device", NoCapacity),
        ("writing blob: write /x/dir-put-blob: file too large", Invalid),
        ("", Upstream),
    ],
)
def test_a_fetchers_words_tell_the_kind_of_failure(said: str, fault: type[Fault]) -> None:
    with pytest.raises(fault):
        _judge(Completed(1, b"", SAYS.format(said).encode()), "r.example/a/404:1")
    _judge(Completed(0, b"", SAYS.format(said).encode()), "x")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_without_room_is_no_surprise(code: int) -> None:
    with pytest.raises(NoCapacity), needing_room():
        raise OSError(code, "no room")
    with pytest.raises(PermissionError), needing_room():
        raise PermissionError
