"""Figures and the one table they are printed in: the ratio first, since on a shared box only ratios can be compared."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Bound:
    """What a figure must not exceed, or, `least`, must reach."""

    what: Literal["p50", "p99", "p50 difference", "ratio", "p99 ratio"]
    most: float
    least: bool = False


@dataclass(frozen=True)
class Row:
    """Ours beside a baseline of the same run. Without a baseline there is no ratio."""

    name: str
    unit: str
    ours: Sequence[float]
    beside: Sequence[float] = ()
    against: str = ""
    bound: Bound | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Ours to the baseline, by medians."""
        low = statistics.median(self.beside) if self.beside else 0.0
        return statistics.median(self.ours) / low if low else None

    @property
    def difference(self) -> float | None:
        """The median of what ours took more than its pair."""
        return statistics.median(self._differences) if self._differences else None

    @property
    def _differences(self) -> list[float]:
        return (
            [a - b for a, b in zip(self.ours, self.beside, strict=True)] if len(self.beside) == len(self.ours) else []
        )

    @property
    def _spread(self) -> str:
        """How far pairs are apart: a median of few that differ much says little."""
        if self.bound is None or self.bound.what != "p50 difference" or len(self._differences) < 2:
            return ""
        low, _, high = statistics.quantiles(self._differences, n=4)
        return f" (quartiles {number(low)} … {number(high)})"

    @property
    def bounded(self) -> float | None:
        """The figure that the bound is on."""
        if self.bound is None:
            return None
        if self.bound.what == "p50 difference":
            return self.difference
        if self.bound.what == "ratio":
            return self.ratio
        if self.bound.what == "p99 ratio":
            return p99(self.ours) / p99(self.beside) if self.beside else None
        return statistics.median(self.ours) if self.bound.what == "p50" else p99(self.ours)

    @property
    def verdict(self) -> str:
        """Whether the bound is kept, in a word."""
        if self.bound is None or self.bounded is None:
            return ""
        bound, is_so = self.bound, self.bounded
        if bound.least:
            word, most = "ok" if is_so >= bound.most else "MISSED", f"of at least {number(bound.most)}"
        else:
            word, most = "ok" if is_so <= bound.most else "EXCEEDED", f"of {number(bound.most)}"
        unit = "" if bound.what.endswith("ratio") else f" {self.unit}"
        return f"{word}: {bound.what} {number(is_so)}{self._spread} {most}{unit}"

    @property
    def missed(self) -> bool:
        """Whether there is a bound that is not kept."""
        return self.verdict.startswith(("EXCEEDED", "MISSED"))


def p99(values: Sequence[float]) -> float:
    """The 99th percentile: the largest of fewer than a hundred."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * 0.99) - 1)]


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


HEAD = ("ratio", "row", "unit", "ours p50", "p99", "baseline p50", "p99", "n", "baseline", "bound")


def render(rows: Sequence[Row]) -> str:
    """The table as Markdown, so that it can be kept in a document as it is."""
    lines = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    beside = (number(statistics.median(row.beside)), number(p99(row.beside))) if row.beside else ("", "")
    ours = (number(statistics.median(row.ours)), number(p99(row.ours)))
    return (ratio, row.name, row.unit, *ours, *beside, str(len(row.ours)), row.against, row.verdict)


def record(row: Row) -> dict[str, Any]:
    """For JSON: every single figure, so that others can reckon differently."""
    return {
        "row": row.name, "unit": row.unit, "ratio": row.ratio, "difference_p50": row.difference,
        "ours": list(row.ours), "baseline": list(row.beside), "against": row.against,
        "bound": row.bound and {"what": row.bound.what, "least" if row.bound.least else "most": row.bound.most,
                                "is": row.bounded}, **row.more,
    }  # fmt: skip
