"""What a sleeper's device hears: questions answered in its stead, calls, and the rest. Nothing is too short."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.host.network import frames

MAC, IP = bytes.fromhex("020000000001"), bytes([10, 77, 0, 10])
PEER_MAC, PEER = bytes.fromhex("020000000002"), bytes([10, 77, 0, 1])
SYN, ACK, RST, FIN = 2, 16, 4, 1


def arp(operation: int = 1, target: bytes = IP) -> bytes:
    """Who has that address?"""
    return (
        b"\xff" * 6 + PEER_MAC + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
        + PEER_MAC + PEER + bytes(6) + target
    )  # fmt: skip


def tcp(flags: int = SYN, target: bytes = IP, *, protocol: int = 6, part: int = 0, payload: bytes = b"") -> bytes:
    """A segment from the peer."""
    segment = struct.pack(">HHIIBBHHH", 40000, 8000, 1000, 77, 5 << 4, flags, 64000, 0, 0) + payload
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 1, part, 64, protocol, 0) + PEER + target
    return MAC + PEER_MAC + b"\x08\x00" + ip + segment


def summed(words: bytes) -> int:
    """0xffff where the checksum in it is right."""
    total: int = sum(struct.unpack(f">{len(words) // 2}H", words))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def passes(frame: bytes) -> bool:
    """What the kernel would do with the program, for the few instructions that are used."""
    code, at, a = frames.program(IP), 0, 0
    while True:
        kind, yes, no, k = code[at]
        size = {0x28: 2, 0x30: 1, 0x20: 4}.get(kind)
        if kind == 0x06:
            return bool(k)
        if size is not None:
            if k + size > len(frame):
                return False
            a, at = int.from_bytes(frame[k : k + size], "big"), at + 1
        else:
            at += 1 + (yes if a == k else no)


@pytest.mark.parametrize(
    ("frame", "answered", "calls"),
    [
        (arp(), True, False), (arp(target=PEER), False, False), (arp(operation=2), False, False),
        (tcp(), False, True), (tcp(ACK, payload=b"more"), False, True), (tcp(FIN | ACK), False, True),
        (tcp(target=PEER), False, False), (tcp(protocol=17), False, False), (tcp(protocol=1), False, False),
    ],
)  # fmt: skip
def test_what_is_heard(frame: bytes, answered: bool, calls: bool) -> None:
    assert (frames.answer(frame, MAC, IP) is not None) == answered
    assert (frames.call(frame, IP) is not None) == calls
    assert passes(frame) == (answered or calls)


def test_what_ends_a_connection_or_is_a_later_part_calls_nobody() -> None:
    assert frames.call(tcp(RST), IP) is None and frames.call(tcp(RST | ACK), IP) is None
    assert frames.call(tcp(part=100), IP) is None


def test_an_answer_is_to_who_asked() -> None:
    answer = frames.answer(arp(), MAC, IP)
    assert answer == PEER_MAC + MAC + arp()[12:20] + b"\x00\x02" + MAC + IP + PEER_MAC + PEER


def test_the_same_segment_sent_again_is_the_same_call() -> None:
    assert frames.call(tcp(), IP) == frames.call(tcp(), IP)
    assert len({frames.call(frame, IP) for frame in (tcp(), tcp(ACK), tcp(ACK | FIN))}) == 3


@pytest.mark.parametrize(
    ("frame", "numbers"),
    [
        (tcp(), (0, 1001, 5 << 4, RST | ACK)),
        (tcp(SYN, payload=b"early"), (0, 1006, 5 << 4, RST | ACK)),
        (tcp(ACK, payload=b"late"), (77, 0, 5 << 4, RST)),
    ],
)
def test_a_refusal_is_a_reset_that_the_caller_believes(frame: bytes, numbers: tuple[int, ...]) -> None:
    said = frames.refusal(frame)
    assert (said[:6], said[6:12], said[26:30], said[30:34]) == (PEER_MAC, MAC, IP, PEER)
    assert struct.unpack_from(">HHIIBB", said, 34) == (8000, 40000, *numbers)
    assert summed(said[14:34]) == 0xFFFF
    assert summed(said[26:34] + struct.pack(">HH", 6, 20) + said[34:]) == 0xFFFF


@given(st.binary(max_size=80), st.sampled_from([b"", arp()[:14], tcp()[:14], tcp()[:34], arp()[:38]]))
def test_anything_may_come(rest: bytes, start: bytes) -> None:
    frame = start + rest
    frames.answer(frame, MAC, IP)
    if frames.call(frame, IP) is not None:
        assert len(frames.refusal(frame)) == 54
