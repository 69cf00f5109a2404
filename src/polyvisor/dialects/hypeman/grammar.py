"""The texts of this dialect: sizes, rates and durations as Go's libraries read and write them, names and tags.

Sizes are those of the library `datasize`: binary multiples, whole numbers. Contract: hypeman.md §1.1.
"""

from __future__ import annotations

import re
from fractions import Fraction

from polyvisor.model.units import Bytes, Seconds

NAME = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
PLATFORM = r"^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$"
TAG_TEXT = r"^[A-Za-z0-9 _.:/=+@-]*$"
RESERVED_TAG = "hypeman.system/"
_LARGEST = 2**64 - 1
_SIZE = re.compile(r"(\d+)\s*([A-Za-z]*)")
_UNITS = ("", "k", "m", "g", "t", "p", "e")
_WORDS = {"k": "kilo", "m": "mega", "g": "giga", "t": "tera", "p": "peta", "e": "exa"}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|g)?bps")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NANOS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_LONGEST = 2**63 - 1


class Malformed(ValueError):
    """A text that is none of what it should be; the message is what upstream's parser says."""


def parse_size(text: str) -> Bytes:
    """Bytes of `1GB`, `512 mb`, `2G`, `1024`. :raise Malformed:"""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Malformed(f'strconv.UnmarshalText: parsing "{text}": invalid syntax')
    size = int(match[1]) * 1024 ** _power(text, match[2])
    if size > _LARGEST:
        raise Malformed(f'strconv.UnmarshalText: parsing "{text}": value out of range')
    return Bytes(size)


def _power(text: str, unit: str) -> int:
    if len(unit) == 2 and unit[0].isupper() and unit[1] == "b":
        raise Malformed(f'strconv.UnmarshalText: parsing "{text}": unit with capital unit prefix and lower case b')
    lower = unit.lower()
    for power, letter in enumerate(_UNITS):
        word = _WORDS.get(letter, "")
        names = {letter, f"{letter}b", word, f"{word}byte", f"{word}bytes"}
        if lower in (names if letter else {"", "b", "byte", "bytes"}):
            return power
    raise Malformed(f'strconv.UnmarshalText: parsing "{text}": invalid syntax')


def show_size(size: int) -> str:
    """As upstream says it: one decimal, and a unit only where more than one of it fit. 1 GiB is `1024.0 MB`."""
    for power in range(6, 0, -1):
        if size > 1024**power:
            return f"{float(Fraction(size, 1024**power)):.1f} {_UNITS[power].upper()}B"
    return f"{size} B"


def parse_rate(text: str) -> Bytes:
    """Bytes a second of `100MB/s`, or of `8Mbps`, which are decimal bits. :raise Malformed:"""
    lower = text.strip().lower()
    bits = _RATE.fullmatch(lower)
    if bits is not None:
        factor = {None: 1, "k": 10**3, "m": 10**6, "g": 10**9}[bits[2]]
        return Bytes(int(Fraction(bits[1]) * factor / 8))
    return parse_size(lower.removesuffix("/s").removesuffix("ps"))


def parse_io_rate(text: str) -> Bytes:
    """Bytes a second of a disk: `100MB/s`. :raise Malformed:"""
    return parse_size(text.removesuffix("/s").removesuffix("ps"))


def parse_duration(text: str) -> Seconds:
    """Seconds of a Go duration: `300ms`, `1h30m`, `0`. :raise Malformed:"""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return Seconds(0.0)
    parts = _DURATION.findall(rest)
    if not rest or "".join(number + unit for number, unit in parts) != rest:
        raise Malformed(_why_no_duration(text, rest))
    nanos = sum(int(Fraction(number.rstrip(".")) * _NANOS[unit]) for number, unit in parts)
    if nanos > _LONGEST:
        raise Malformed(f'time: invalid duration "{text}"')
    return Seconds(sign * nanos / 10**9)


def _why_no_duration(text: str, rest: str) -> str:
    if re.fullmatch(r"(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))*\d+(\.\d*)?", rest):
        return f'time: missing unit in duration "{text}"'
    unknown = re.match(r"(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))*\d+(?:\.\d*)?([^\d.]+)", rest)
    if unknown:
        return f'time: unknown unit "{unknown[1]}" in duration "{text}"'
    return f'time: invalid duration "{text}"'


def show_duration(seconds: float) -> str:
    """As Go says it: `5m0s`, `1h0m0s`, `1.5s`, `300ms`, `0s`."""
    nanos = round(seconds * 10**9)
    if nanos == 0:
        return "0s"
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    for unit in ("ns", "µs", "ms"):
        if nanos < _NANOS[unit] * 1000:
            return sign + _decimal(nanos, _NANOS[unit]) + unit
    minutes, rest = divmod(nanos, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    lead = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return sign + lead + _decimal(rest, 10**9) + "s"


def _decimal(value: int, of: int) -> str:
    whole, rest = divmod(value, of)
    fraction = f"{rest:0{len(str(of)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
