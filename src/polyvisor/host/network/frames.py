"""Frames at the device of an instance in standby: which of them concern it, and what is said in its stead. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_ARP, _IP = 0x0806, 0x0800
_REQUEST, _REPLY = 1, 2
_TCP = 6
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_ETHERNET = 14
_LEAST = _ETHERNET + 20  # an ARP packet is longer, so is a TCP segment
_ARP_END = _ETHERNET + 28


def program(ip: bytes) -> list[tuple[int, int, int, int]]:
    """Classic BPF that lets `question` and `call` see what they want and hardly anything else: (code, jt, jf, k)."""
    address = int.from_bytes(ip, "big")
    load_half, load_byte, load_word, equal, give = 0x28, 0x30, 0x20, 0x15, 0x06
    return [
        (load_half, 0, 0, 12),
        (equal, 0, 4, _ARP),
        (load_half, 0, 0, 20),
        (equal, 0, 8, _REQUEST),
        (load_word, 0, 0, 38),
        (equal, 5, 6, address),
        (equal, 0, 5, _IP),
        (load_byte, 0, 0, 23),
        (equal, 0, 3, _TCP),
        (load_word, 0, 0, 30),
        (equal, 0, 1, address),
        (give, 0, 0, 0x40000),
        (give, 0, 0, 0),
    ]


def answer(frame: bytes, mac: bytes, ip: bytes) -> bytes | None:
    """The answer to an ARP request for that address; None: it is none."""
    if len(frame) < _ARP_END or _kind(frame) != _ARP or frame[20:22] != struct.pack(">H", _REQUEST):
        return None
    if frame[38:42] != ip:
        return None
    asker = frame[22:32]  # hardware and protocol address
    return asker[:6] + mac + frame[12:20] + struct.pack(">H", _REPLY) + mac + ip + asker


def call(frame: bytes, ip: bytes) -> bytes | None:
    """What tells a TCP segment to that address from others, the same if it is sent again; None: it is none, or one that
    ends a connection without asking for an answer."""
    if len(frame) < _LEAST or _kind(frame) != _IP or frame[23] != _TCP or frame[30:34] != ip:
        return None
    tcp = frame[_ETHERNET + _header(frame) :]
    later_part = struct.unpack_from(">H", frame, 20)[0] & 0x1FFF
    if later_part or len(tcp) < 20 or tcp[13] & _RST:
        return None
    return frame[26:30] + tcp[:8] + tcp[13:14]


def refusal(frame: bytes) -> bytes:
    """A reset, as the one who was called would send it, for a `call`."""
    start = _ETHERNET + _header(frame)
    source, target, sequence, acknowledged, offset, flags = struct.unpack_from(">HHIIBB", frame, start)
    total = struct.unpack_from(">H", frame, 16)[0]
    if flags & _ACK:
        numbers = (acknowledged, 0, 5 << 4, _RST)
    else:
        payload = total - (start - _ETHERNET) - (offset >> 4) * 4
        length = payload + bool(flags & _SYN) + bool(flags & _FIN)
        numbers = (0, (sequence + length) & 0xFFFFFFFF, 5 << 4, _RST | _ACK)
    tcp = struct.pack(">HHIIBBHHH", target, source, *numbers, 0, 0, 0)
    ends = frame[30:34] + frame[26:30]
    tcp = _summed(tcp, 16, ends + struct.pack(">HH", _TCP, len(tcp)))
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, _TCP, 0) + ends
    return frame[6:12] + frame[:6] + frame[12:14] + _summed(ip, 10) + tcp


def _kind(frame: bytes) -> int:
    return int.from_bytes(frame[12:14], "big")


def _header(frame: bytes) -> int:
    return (frame[_ETHERNET] & 15) * 4


def _summed(words: bytes, at: int, before: bytes = b"") -> bytes:
    """With the Internet checksum of it, and of what is counted in, written at `at`."""
    counted: Sequence[int] = struct.unpack(f">{(len(before) + len(words)) // 2}H", before + words)
    total = sum(counted)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return words[:at] + struct.pack(">H", total ^ 0xFFFF) + words[at + 2 :]
