"""What the benchmark's table says follows from its figures."""

from __future__ import annotations

from bench.table import Bound, Row, p99, record, render


def test_the_ratio_is_of_medians_and_the_difference_of_pairs() -> None:
    row = Row("r", "ms", [30.0, 10.0, 20.0], [3.0, 1.0, 4.0])
    assert row.ratio == 20 / 3
    assert row.difference == 16


def test_a_row_without_a_baseline_has_no_ratio() -> None:
    row = Row("r", "ms", [1.0])
    assert (row.ratio, row.difference, row.verdict) == (None, None, "")
    assert "| r " in render([row])


def test_p99_of_few_is_the_largest() -> None:
    assert p99([float(n) for n in range(10)]) == 9
    assert p99([float(n) for n in range(1, 201)]) == 198


def test_a_bound_is_judged_by_its_own_figure() -> None:
    ours, beside = [200.0] * 10, [100.0] * 10
    assert Row("r", "ms", ours, beside, bound=Bound("p50 difference", 150)).verdict.startswith("ok")
    assert Row("r", "ms", ours, beside, bound=Bound("p50", 150)).verdict.startswith("EXCEEDED")
    assert Row("r", "ms", [*ours, 20.0], bound=Bound("p99", 250)).verdict.startswith("ok")


def test_every_figure_is_recorded() -> None:
    kept = record(Row("r", "ms", [1.0, 2.0], [2.0, 4.0], "b", Bound("p50", 1.0)))
    assert (kept["ours"], kept["baseline"], kept["ratio"]) == ([1.0, 2.0], [2.0, 4.0], 0.5)
    assert kept["bound"] == {"what": "p50", "most": 1.0, "is": 1.5}
