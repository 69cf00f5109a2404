"""Units: bytes and seconds are types, never bare numbers; sizes people write are parsed here and only here."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import NewType

from polyvisor.model.faults import Invalid

Bytes = NewType("Bytes", int)
Seconds = NewType("Seconds", float)

KIB = 1024
MIB = 1024**2
GIB = 1024**3
TIB = 1024**4

_SIZE = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*(?:([kmgtp])i?)?b?\s*", re.IGNORECASE)
_FACTOR = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB, "p": 1024**5}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_DURATION = re.compile(rf"({_NUMBER})(ms|s|m|h|d)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str | int, field: str) -> Bytes:
    """Bytes from `1073741824`, `"512M"`, `"1GiB"`, `"1.5 gb"`; units are powers of 1024.

    :raise Invalid: naming `field`, when the text is not a size.
    """
    if isinstance(text, int):
        return Bytes(text)
    match = _SIZE.fullmatch(text)
    if not match:
        raise Invalid(f"{field}: {text[:40]!r} is not a size such as 512M or 2G", field=field)
    return Bytes(int(Fraction(match[1]) * _FACTOR[(match[2] or "").lower()]))


def parse_duration(text: str | float, field: str) -> Seconds:
    """Seconds from `90`, `"90s"`, `"1h30m"`, `"250ms"`.

    :raise Invalid: naming `field`, when the text is not a duration.
    """
    if isinstance(text, int | float):
        if not math.isfinite(text):
            raise Invalid(f"{field}: must be a finite number of seconds", field=field)
        return Seconds(float(text))
    if re.fullmatch(_NUMBER, text):
        return Seconds(float(text))
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise Invalid(f"{field}: {text[:40]!r} is not a duration such as 30s or 1h30m", field=field)
    return Seconds(sum(float(n) * _SECONDS[u.lower()] for n, u in parts))


def show_size(size: int) -> str:
    """A size for people: `256.0 MiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
