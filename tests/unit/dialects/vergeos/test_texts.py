"""The texts of `fields`, `filter`, `sort`, by examples of the contract (vergeos.md §1.6 to §1.8, checks 22 to 24)."""

from __future__ import annotations

from typing import Any

import pytest

from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.language.fields import parse_fields
from polyvisor.dialects.vergeos.language.filters import parse_filter
from polyvisor.dialects.vergeos.language.query import needs, one, parse_query, run
from polyvisor.dialects.vergeos.language.sorts import Order, parse_sort
from unit.dialects.vergeos.catalog import CATALOG, VMF, stock, vm

NOW = 1_000_000


def ask(table: str, **params: str) -> list[dict[str, Any]]:
    """The answer of the stock."""
    return run(CATALOG, table, parse_query(params), stock(), NOW)


def first(fields: str, table: str = "vms") -> dict[str, Any]:
    """The first row."""
    return ask(table, fields=fields)[0]


def named(filter: str, *names: str) -> list[str]:
    """Which of the machines of these names are kept."""
    sources = {"vms": [vm(key, name) for key, name in enumerate(names, 1)]}
    return [
        str(row["name"]) for row in run(CATALOG, "vms", parse_query({"filter": filter, "fields": "name"}), sources, NOW)
    ]


def refused(**params: str) -> str:
    """What a query is refused with."""
    with pytest.raises(Refusal) as caught:
        ask("vms", **params)
    assert caught.value.status == 422
    return caught.value.text


def test_a_list_has_exactly_the_columns_that_a_client_asks_for() -> None:
    row = first(VMF)
    assert len(row) == 23
    assert (row["node_key"], row["node_name"], row["cluster_key"], row["cluster_name"]) == (3, "node1", 1, "lab")
    assert (row["running"], row["status"]) == (True, "running")


def test_a_key_that_is_null_gives_null_and_a_reference_that_leads_nowhere_nothing() -> None:
    assert ask("vms", fields=VMF)[1]["node_name"] is None
    assert ask("tag_members", fields="$key,tag#name as t,member#name as m") == [
        {"$key": 1, "t": "blue", "m": "web"},
        {"$key": 2, "t": None},
        {"$key": 3, "t": None},
    ]


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ("name,$key", {"name": "web", "$key": 42}),
        ("machine#status", {"machine#status": 54}),
        ("machine#status#status as powerState", {"powerState": "running"}),
        ("name, display , nonsense#name", {"name": "web"}),
        ("machine#$display,machine#$key as k,$display", {"machine#$display": "web", "k": 54, "$display": "web"}),
        ("cluster,machine#cluster as c", {"cluster": "1", "c": 1}),
        ("machine[name,status[status,running],drives[name,disksize]]", {
            "machine": {
                "name": "web",
                "status": {"status": "running", "running": True},
                "drives": [{"name": "root", "disksize": 100}, {"name": "data", "disksize": 200}],
            }
        }),
        ("machine[drives[most] as disks]", {"machine": {"disks": [
            {"$key": 7, "name": "root", "machine": 54, "disksize": 100, "preferred_tier": "2"},
            {"$key": 8, "name": "data", "machine": 54, "disksize": 200, "preferred_tier": "10"},
        ]}}),
        ("dashboard", {"machine": {"status": {"running": True, "agent_guest_info": []}}}),
        ("summary", {"$key": 42, "cpu_cores": 1}),
        ("machine#status#display(status) as d,display(machine)", {"d": "Running", "display(machine)": "web"}),
        ("sum(machine#drives[disksize]) as a,machine#sum(drives#disksize) as b", {"a": 300, "b": 300}),
        ("machine#avg(drives[disksize]) as a,machine#min(drives[disksize]) as b", {"a": 150, "b": 100}),
        ("machine#max(drives#disksize) as a,machine#drives#name as n", {"a": 200, "n": ["root", "data"]}),
        ("machine#collapse(drives[name]) as a", {"a": "root"}),
        ("machine#collapse(drives[name,disksize]) as a", {"a": {"name": "root", "disksize": 100}}),
        ("upper(name) as a,lower(name) as b,hex(ram) as c", {"a": "WEB", "b": "web", "c": "400"}),
        ("sha1(name) as a", {"a": "ca84d1343b96baa8137c943ed1860e522cacb238"}),
        ("datetime(created) as a,diskspace(ram) as b", {"a": "1970-01-01 00:16:40", "b": "1.0 KB"}),
    ],
)  # fmt: skip
def test_fields(fields: str, row: dict[str, Any]) -> None:
    assert first(fields) == row


def test_all_and_most_are_own_columns_without_arguments_and_secrets() -> None:
    for view in ("all", "most", "*"):
        row = first(view)
        assert "machine" in row
        assert "$key" in row
        assert row.keys().isdisjoint({"cluster", "secret", "tags", "running"})
    assert first("all", "machines")["status"] == 54
    assert first("all", "nodes") == {"name": "node1"}
    assert first("all,$key", "nodes") == {"name": "node1", "$key": 3}
    assert first("all,machine#status#running as running")["running"] is True


def test_a_later_thing_of_the_same_name_counts() -> None:
    assert first("all,status#status as status", "machines")["status"] == "running"


def test_no_fields_are_a_few_and_no_names_are_the_number_of_rows() -> None:
    assert first("") == {"$key": 42, "name": "web", "machine": 54}
    assert ask("nodes") == [{"$key": 3}]
    assert ask("vms", fields=",", limit="1") == [{"$count": 2}]
    assert ask("vms", fields=",", filter="ram gt 2000") == [{"$count": 1}]


def test_members_are_counted() -> None:
    fields = "name,count(members) as member_count,collapse(members[name]) as first"
    assert ask("groups", fields=fields) == [
        {"name": "admins", "member_count": 2, "first": "a"},
        {"name": "none", "member_count": 0, "first": None},
    ]


def test_one_row_is_as_its_table_has_it() -> None:
    sources = stock()
    query = parse_query({"fields": VMF})
    assert one(CATALOG, "vms", query, sources["vms"][0], sources, NOW) == ask("vms", fields=VMF)[0]
    assert one(CATALOG, "vms", parse_query({"fields": ","}), sources["vms"][0], sources, NOW) == {"$count": 1}


@pytest.mark.parametrize(
    ("params", "tables"),
    [
        ({"fields": "$key,name,machine"}, {"vms"}),
        ({"fields": VMF}, {"vms", "machines", "machine_status", "nodes", "clusters"}),
        ({"fields": "machine[drives[name]]"}, {"vms", "machines", "machine_drives"}),
        ({"fields": "dashboard"}, {"vms", "machines", "machine_status"}),
        ({"fields": "owner#name"}, {"vms", "groups"}),
        ({"fields": "name", "filter": "machine#cluster#name eq 'lab'"}, {"vms", "machines", "clusters"}),
        ({"fields": "name", "sort": "machine#name"}, {"vms", "machines"}),
        ({"fields": "display(machine)"}, {"vms", "machines"}),
        ({"fields": "tags[tag#name]"}, {"vms", "tag_members", "tags"}),
        ({"fields": "nonsense#name,machine#nonsense"}, {"vms"}),
    ],
)
def test_what_a_query_needs(params: dict[str, str], tables: set[str]) -> None:
    assert needs(CATALOG, "vms", parse_query(params)) == tables


@pytest.mark.parametrize(
    "fields",
    [
        "a b",
        "name as",
        "like(name)",
        "count(",
        "count()",
        "drives[",
        "drives[]",
        "a]",
        "a)",
        "#a",
        "a#",
        "a##b",
        "é",
        "a as b c",
        "()",
    ],
)
def test_fields_that_are_none(fields: str) -> None:
    assert refused(fields=fields) == "Invalid argument"


def test_a_view_that_goes_into_itself_is_refused() -> None:
    assert refused(fields="round") == "Invalid argument"


@pytest.mark.parametrize(
    ("filter", "kept"),
    [
        ("name eq 'a'", ["a"]),
        ("name ne 'a'", ["b", "Web1"]),
        ("name bw 'We'", ["Web1"]),
        ("name bw ''", ["a", "b", "Web1"]),
        ("name ew 'b1'", ["Web1"]),
        ("name cs 'web'", []),
        ("name cs 'eb'", ["Web1"]),
        ("name ct 'WEB'", ["Web1"]),
        ("name rx '^[ab]$'", ["a", "b"]),
        ("name rx '[[:digit:]]'", ["Web1"]),
        ("name rx 'web'", []),
        ("name rx ''", ["a", "b", "Web1"]),
        (r"name rx '\\d'", []),
        ("name rx '(?i)web'", []),
        ("name rx '('", []),
        ("name re 'a'", []),
        ("name gt 'a'", ["b"]),
        ("$key eq '2'", ["b"]),
        ("$key ge 2.5", ["Web1"]),
        ("$key lt 'x'", []),
        ("enabled eq 'true' and enabled eq 1 and enabled eq true", ["a", "b", "Web1"]),
        ("enabled eq 'x' or enabled ne true", []),
        ("owner eq null", ["a", "b", "Web1"]),
        ("owner ne null or owner gt null or owner eq 'vms/1'", []),
        ("name eq 'a' or name eq 'b' and ram gt 999999", []),
        ("ram gt 999999 and name eq 'b' or name eq 'a'", ["a"]),
        ("name eq 'a' or (name eq 'b' and ram gt 999999)", ["a"]),
        ("(is_snapshot eq false) and (name bw 'a' and (os_family eq 'linux' or os_family eq 'windows'))", ["a"]),
        ("name eq 'a{b}'", ["a"]),
        ("name eq 'a{b{c}d}{}'", ["a"]),
        ("created lt {$now}", ["a", "b", "Web1"]),
        ("created lt {$add({$now},604800)} and created gt 0", ["a", "b", "Web1"]),
        ("created gt '{$add(5,{$add({$now},-1000)})}'", []),
        ("machine#cluster#name eq null", ["a", "b", "Web1"]),
        ("  ", ["a", "b", "Web1"]),
    ],
)
def test_filters(filter: str, kept: list[str]) -> None:
    assert named(filter, "a", "b", "Web1") == kept


@pytest.mark.parametrize(
    "name",
    ["o'brien", "back\\slash", "back\\'quote", "trailing\\", 'double"quote', "a{x}", "{'", "}()[]*?%_.+|^$", "\n"],
)
@pytest.mark.parametrize("operator", ["eq", "ct", "bw", "ew", "cs"])
def test_a_backslash_takes_the_next_character_as_it_is(name: str, operator: str) -> None:
    literal = "".join(f"\\{letter}" if letter in "\\'{" else letter for letter in name)
    assert named(f"name {operator} '{literal}'", name, "other") == [name]


def test_a_reference_and_a_joined_column_are_compared() -> None:
    assert ask("tag_members", filter="member eq 'vms/42' and tag eq '4'", fields="$key") == [{"$key": 1}]
    joined = "machine#cluster#name eq 'lab' and machine#status#running eq true"
    assert ask("vms", filter=joined, fields="$key") == [{"$key": 42}]
    assert ask("tag_members", filter="member#name eq null", fields="$key") == [{"$key": 2}, {"$key": 3}]


def test_a_table_that_only_the_answer_reads_is_found_after_the_filter_was_asked() -> None:
    sources = stock() | {"vms": [vm(1, "a", owner="groups/1")]}
    query = parse_query({"filter": "owner#ram eq null", "fields": "owner#name"})
    assert run(CATALOG, "vms", query, sources, NOW) == [{"owner#name": "admins"}]


def test_a_tier_is_a_text_that_has_the_order_of_numbers() -> None:
    assert ask("machine_drives", filter="preferred_tier gt 2", fields="preferred_tier") == [{"preferred_tier": "10"}]
    assert ask("machine_drives", filter="preferred_tier eq 2", sort="-preferred_tier", fields="$key") == [{"$key": 7}]
    assert ask("machine_drives", sort="-preferred_tier", fields="$key") == [{"$key": 8}, {"$key": 7}]


@pytest.mark.parametrize(
    "filter",
    [
        "name like 'a'", "name in ('a')", "name contains 'a'", "name sw 'a'", "name matches 'a'", "name regex 'a'",
        "contains(name,'a')", "name eq", "name", "name eq a", 'name eq "a"',
        "name eq 'a", "name eq 'a\\", "name eq 'a{b'",
        "name eq 'a{b' or name eq 'c}'", "name eq 'o''brien'", "(name eq 'a'", "name eq 'a')", "()", "name eq 'a' and",
        "and name eq 'a'", "name eq 'a' xor name eq 'b'", "name eq {b}", "name eq {$now", "name eq 1e5", "name eq é",
        "nonsense eq 1", "machine#nonsense eq 1", "name#x eq 1", "name EQ 'a'", "name eq 'a' name eq 'b'",
        "(" * 33 + "name eq 1" + ")" * 33,
    ],
)  # fmt: skip
def test_filters_that_are_none(filter: str) -> None:
    assert refused(filter=filter) == "Invalid argument"


def test_sorts() -> None:
    assert parse_sort("+orderid") == parse_sort(" orderid") == parse_sort("orderid") == (Order(("orderid",)),)
    assert parse_sort("-created, name") == (Order(("created",), True), Order(("name",)))
    assert parse_sort("+machine#name,,") == (Order(("machine", "name")),)
    assert parse_sort("") == ()
    for text in ("name desc", "--name", "a,b,c,d,e,f,g,h,i", "näme", "a" * 2000):
        with pytest.raises(Refusal):
            parse_sort(text)


def test_rows_come_in_the_order_of_keys_unless_they_are_sorted() -> None:
    sources = {"vms": [vm(3, "b", expires=None), vm(1, "a", expires=7), vm(2, "b", expires=9)]}

    def keys(**params: str) -> list[object]:
        found = run(CATALOG, "vms", parse_query({"fields": "$key", **params}), sources, NOW)
        return [row["$key"] for row in found]

    assert keys() == [1, 2, 3]
    assert keys(sort="-name") == [2, 3, 1]
    assert keys(sort="-name,-$key") == [3, 2, 1]
    assert keys(sort=" expires") == [3, 1, 2]
    assert keys(sort="+nonsense") == [1, 2, 3]
    assert keys(limit="0") == [1, 2, 3]
    assert keys(limit="2", offset="1") == [2, 3]
    assert keys(limit="2", offset="9") == []


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "9" * 30, "0x1"])
def test_limits_that_are_none(number: str) -> None:
    assert refused(limit=number) == refused(offset=number) == "Invalid argument"


def test_pages_have_every_row_once() -> None:
    sources = {"vms": [vm(key, f"vm{key % 7}") for key in range(2350, 0, -1)]}
    seen: list[object] = []
    for offset in range(0, 2400, 100):
        query = parse_query({"limit": "100", "offset": str(offset), "fields": "$key"})
        seen += [row["$key"] for row in run(CATALOG, "vms", query, sources, NOW)]
    assert seen == list(range(1, 2351))


def test_what_costs_too_much_is_refused() -> None:
    sources = {"vms": [vm(key, "a", description="x" * 2000) for key in range(1, 1001)]}
    fields = ",".join(f"sha1(description) as a{number}" for number in range(500))
    with pytest.raises(Refusal):
        run(CATALOG, "vms", parse_query({"fields": fields}), sources, NOW)
    for text in (
        "a" * 40_000,
        ",".join(["name"] * 600),
        "#".join("a" * 9),
        "a[" * 9 + "b" + "]" * 9,
        "min(" * 9 + "a" + ")" * 9,
    ):
        with pytest.raises(Refusal):
            parse_fields(text)
    for text in (" or ".join(["name cs 'a'"] * 40), "name eq '" + "a" * 20_000 + "'"):
        with pytest.raises(Refusal):
            parse_filter(text)
