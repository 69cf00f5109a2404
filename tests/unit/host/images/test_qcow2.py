"""qcow2 headers: every dangerous field is refused by name, and no bytes whatever do more than that."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.host.images.bounds import Bounds
from polyvisor.host.images.qcow2 import inspect
from polyvisor.model.faults import Invalid
from polyvisor.model.units import GIB

LENGTH = 65536 * 4
OFFSETS = {
    "magic": (0, "I"), "version": (4, "I"), "backing": (8, "Q"), "backing_len": (16, "I"), "bits": (20, "I"),
    "size": (24, "Q"), "crypt": (32, "I"), "l1": (36, "I"), "l1_at": (40, "Q"), "ref_at": (48, "Q"),
    "ref_n": (56, "I"), "snaps": (60, "I"), "snaps_at": (64, "Q"), "incompatible": (72, "Q"),
    "refcount_order": (96, "I"), "header_length": (100, "I"),
}  # fmt: skip


def header(extension: tuple[int, bytes] | None = None, /, **fields: int) -> bytes:
    values = {
        "magic": 0x514649FB, "version": 3, "bits": 16, "size": GIB, "l1": 2, "l1_at": 65536 * 3, "ref_at": 65536,
        "ref_n": 1, "refcount_order": 4, "header_length": 112,
    }  # fmt: skip
    head = bytearray(65536)
    for name, value in {**values, **fields}.items():
        at, kind = OFFSETS[name]
        struct.pack_into(f">{kind}", head, at, value)
    if extension:
        struct.pack_into(">II", head, 112, extension[0], len(extension[1]))
        head[120 : 120 + len(extension[1])] = extension[1]
    return bytes(head)


def test_an_honest_header_is_read() -> None:
    found = inspect(header(), LENGTH, Bounds())
    assert (found.version, found.virtual_size, found.cluster_size) == (3, GIB, 65536)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"magic": 0}, "no qcow2 header"),
        ({"version": 1}, "version 1"),
        ({"version": 4}, "version 4"),
        ({"backing": 200, "backing_len": 11}, "backing file"),
        ({"backing": 200}, "backing file"),
        ({"crypt": 2}, "encrypted"),
        ({"bits": 8}, "clusters"),
        ({"bits": 200}, "clusters"),
        ({"size": 0}, "a disk of 0 bytes"),
        ({"size": 2**63}, "a disk of 9223372036854775808 bytes"),
        ({"snaps": 1}, "internal snapshots"),
        ({"incompatible": 2}, "corrupt"),
        ({"incompatible": 4}, "external data file"),
        ({"incompatible": 8}, "compressed in an unknown way"),
        ({"incompatible": 1 << 40}, "features unknown"),
        ({"refcount_order": 7}, "absurd width"),
        ({"header_length": 2**31}, "a header of"),
        ({"header_length": 16}, "a header of"),
        ({"l1": 1}, "L1 table of 1 entries"),
        ({"l1": 2**31}, "L1 table of"),
        ({"l1_at": 65536 * 900}, "L1 table outside"),
        ({"l1_at": 0}, "L1 table outside"),
        ({"ref_n": 0}, "reference count table"),
        ({"ref_n": 2**20}, "reference count table"),
        ({"ref_at": 77}, "reference count table outside"),
    ],
)
def test_dangerous_fields_are_refused(fields: dict[str, int], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        inspect(header(**fields), LENGTH, Bounds())


@pytest.mark.parametrize(
    ("extension", "why"),
    [
        ((0x44415441, b"/etc/shadow"), "external data file"),
        ((0xE2792ACA, b"raw"), "backing format"),
        ((0x0537BE77, bytes(16)), "encrypted"),
    ],
)
def test_dangerous_extensions_are_refused(extension: tuple[int, bytes], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        inspect(header(extension), LENGTH, Bounds())


@given(st.dictionaries(st.sampled_from(sorted(OFFSETS)), st.integers(0, 2**32 - 1)), st.integers(0, 2**40))
def test_no_fields_crash_the_reader(fields: dict[str, int], length: int) -> None:
    try:
        found = inspect(header(**fields), length, Bounds())
    except Invalid:
        return
    assert 0 < found.virtual_size <= Bounds().disk


@given(st.binary(max_size=300), st.integers(0, 200), st.integers(0, 70_000))
def test_no_noise_crashes_the_reader(noise: bytes, at: int, cut: int) -> None:
    head = bytearray(header())
    head[at : at + len(noise)] = noise
    with contextlib.suppress(Invalid):
        inspect(bytes(head[:cut]), LENGTH, Bounds())
