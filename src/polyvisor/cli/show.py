"""What people and programs get to see. Data goes to stdout, errors to stderr, secrets nowhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

    from polyvisor.wire.native import Problem


def say(text: str) -> None:
    """A line of output."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """A line for people, beside the output."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def plain(text: str) -> str:
    """Without what a terminal would obey: names and messages may come from guests and strangers."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def complain(problem: Problem, as_json: bool) -> None:
    """An error."""
    remark(problem.model_dump_json(exclude_none=True) if as_json else f"error: {problem.message}")


def document(item: BaseModel) -> None:
    """One thing as one line of JSON."""
    sys.stdout.write(item.model_dump_json() + "\n")
    sys.stdout.flush()


def documents(items: Iterable[BaseModel]) -> None:
    """Many things as one JSON array."""
    rows = [item.model_dump(mode="json") for item in items]
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns for people; cut to the terminal's width only where there is a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        grid.add_column(head, no_wrap=True, overflow="ellipsis")
    for row in rows:
        grid.add_row(*(Text(plain(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 4096, highlight=False)
    with console.capture() as drawn:
        console.print(grid)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in drawn.get().splitlines()))


def raw(channel: int, data: bytes) -> None:
    """Bytes as they are, to stdout (1) or stderr (2)."""
    stream = sys.stdout if channel == 1 else sys.stderr
    stream.buffer.write(data)
    stream.flush()


def hush() -> None:
    """Nobody reads stdout any more: let Python's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def size(count: int) -> str:
    """`256.0 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def age(then: datetime) -> str:
    """`3 min`."""
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
