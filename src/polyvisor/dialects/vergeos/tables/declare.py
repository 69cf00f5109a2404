"""Short words to declare columns with. Where a column says nothing of its source, that is what its row keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from polyvisor.dialects.vergeos.language.columns import Column, Kind

Get = Callable[[Any], object]
_EMPTY: Mapping[Kind, object] = {Kind.BOOL: False, Kind.TEXT: "", Kind.STRING: "", Kind.INT: 0, Kind.TIME: 0}


def key(get: Get = lambda source: source.key, *, kind: Kind = Kind.KEY) -> Column:
    """The first column of every table."""
    return Column("$key", kind, get, read_only=True, summary=True)


def told(name: str, kind: Kind, get: Get, **more: Any) -> Column:
    """What only the server writes."""
    return Column(name, kind, get, read_only=True, **more)


def constant(name: str, kind: Kind, value: object, **more: Any) -> Column:
    """What is the same for every row here."""
    return Column(name, kind, lambda source: value, read_only=True, **more)


def kept(name: str, kind: Kind, default: object = None, **more: Any) -> Column:
    """What a VM, a drive, a NIC or a snapshot keeps, as it was written."""
    usual = _EMPTY.get(kind) if default is None else default
    return Column(name, kind, lambda source: source.kept.get(name, usual), default=default, **more)


def data(name: str, kind: Kind, default: object = None, **more: Any) -> Column:
    """What a row that is nothing else keeps."""
    usual = _EMPTY.get(kind) if default is None else default
    return Column(name, kind, lambda source: source.data.get(name, usual), default=default, **more)


def words(*some: str, **displayed: str) -> dict[str, str]:
    """Choices with what people read in place of them."""
    return {word: _shown(word) for word in some} | displayed


def _shown(word: str) -> str:
    return word.replace("_", " ").replace("-", " ").title() if word.islower() else word


def numbered(prefix: str, versions: Iterable[str], label: str) -> dict[str, str]:
    """Choices that are versions of one thing."""
    return {f"{prefix}{version}": f"{label} {version}" for version in versions}
