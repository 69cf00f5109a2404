"""Whatever text comes in, it is refused or answered, with as much work as its length allows: calls are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from fuzz.language import SEED, calls, cases, tried
from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.language.query import parse_query, run
from unit.dialects.vergeos.catalog import CATALOG, VMF, vm

LONGEST = 16_000
MOST = 4_000_000
Text = Callable[[int], str]


def test_nonsense_is_refused_or_answered() -> None:
    counted: Counter[str] = Counter()
    for case in cases(SEED, 10_000):
        tried(case, counted)
    assert counted["answered"] > 100
    assert counted["refused"] > 1000


@pytest.mark.parametrize(
    "text",
    [
        lambda size: "(" * size,
        lambda size: "name eq 'a" + "{" * size,
        lambda size: "name eq 'a" + "{}" * (size // 2) + "'",
        lambda size: "name eq 'a" + "{" * (size // 2) + "}" * (size // 2) + "'",
        lambda size: "name eq '" + "\\\\" * (size // 2) + "'",
        lambda size: "name eq '" + "{$add(" * (size // 6) + "'",
        lambda size: "name eq " + "1" * size,
        lambda size: "a" * size + " eq 1",
        lambda size: " " * size + "name eq 1" + " " * size,
        lambda size: " or ".join(["ram eq 1"] * (size // 12)),
        lambda size: "name rx '" + "(a*)*" * (size // 5) + "b'",
        lambda size: "name rx '" + "(a|aa)+" * 100 + "$' or ram eq " + "1" * 9,
        lambda size: "name rx '((a{1,100}){1,100}){1,100}'",
    ],
)
def test_no_filter_takes_long(text: Text) -> None:
    assert _calls({"filter": text(LONGEST)}) < MOST


@pytest.mark.parametrize(
    "text",
    [
        lambda size: "a[" * size,
        lambda size: "min(" * size,
        lambda size: "a#" * size,
        lambda size: "," * size,
        lambda size: " " * size + "name",
        lambda size: ",".join(["all"] * 500),
        lambda size: ",".join(["owner#owner#owner#owner#owner#owner#owner#name"] * 300),
        lambda size: "owner[" * 8 + "all" + "]" * 8,
        lambda size: ",".join(["owner[owner[owner[owner[owner[owner[owner[all,$display]]]]]]]"] * 200),
        lambda size: ",".join(["machine[drives[machine[drives[machine[drives[machine[drives[all]]]]]]]]"] * 50),
    ],
)
def test_no_fields_take_long(text: Text) -> None:
    assert _calls({"fields": text(LONGEST)}) < MOST


def test_a_thousand_rows_take_a_few_calls_for_each_of_their_values() -> None:
    assert _calls({"fields": VMF, "filter": "is_snapshot eq false"}) < 1000 * 150


def _calls(params: dict[str, str]) -> int:
    """What a query of a thousand machines takes."""
    sources = {
        "vms": [vm(key, "a" * 60, owner="vms/1") for key in range(1, 1001)],
        "machines": [{"$key": key + 12, "name": "a", "cluster": 1, "ha_group": None} for key in range(1, 1001)],
        "machine_status": [{"$key": key, "machine": key, "node": 3, "running": True} for key in range(13, 1013)],
        "machine_drives": [
            {"$key": key, "name": "a", "machine": key // 16 + 13, "disksize": 1, "preferred_tier": "1"}
            for key in range(16_000)
        ],
        "nodes": [{"$key": 3, "name": "node1"}],
        "clusters": [{"$key": 1, "name": "lab"}],
    }
    with calls() as taken:
        try:
            run(CATALOG, "vms", parse_query(params), sources, 0)
        except Refusal as refusal:
            assert refusal.status == 422
    return taken[0]
