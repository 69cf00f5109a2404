"""What is made out once and looked up says the same as what looks through all rows again and again."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyvisor.dialects.vergeos.language.columns import Kind
from polyvisor.dialects.vergeos.language.query import needs, parse_query, run
from unit.dialects.vergeos.catalog import CATALOG, MACHINES, TAG_MEMBERS, VMS, Source, vm
from unit.dialects.vergeos.reference import Path, Sources, Tree, answer, fields_text, filter_text, matches

TEXTS = st.text(st.sampled_from("ab'\\{}\"$ .*9"), max_size=4)
KEYS = st.integers(1, 4)
OPERATORS = st.sampled_from(("eq", "ne", "gt", "ge", "lt", "le", "bw", "ew", "cs", "ct", "rx", "re"))
LITERALS = st.one_of(TEXTS, st.none(), st.booleans(), st.integers(-2, 5), st.sampled_from(["1", "3.0", "true", "2.5"]))
HOPS = {
    "vms": ("machine", "owner", "tags"),
    "machines": ("cluster", "status", "drives"),
    "machine_status": ("machine", "node"),
    "machine_drives": ("machine",),
    "tag_members": ("tag", "member"),
}
NUMBERS = ("count", "sum", "avg", "min", "max", "collapse")


def rows(some: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Source]]:
    """A table's rows, each with a key of its own."""
    made = st.lists(some, max_size=4)
    return made.map(lambda found: [{"$key": key, **row} for key, row in enumerate(found, 1)])


KEY_OR_NULL = st.none() | KEYS
REFERENCES = st.none() | st.builds("{}/{}".format, st.sampled_from(("vms", "groups", "elsewhere")), KEYS)
SOURCES: st.SearchStrategy[Sources] = st.fixed_dictionaries(
    {
        "vms": st.lists(st.tuples(TEXTS, KEY_OR_NULL, REFERENCES, st.booleans(), KEYS), max_size=4).map(
            lambda some: [
                vm(key, name, machine=machine, owner=owner, enabled=on, ram=ram, cluster=ram)
                for key, (name, machine, owner, on, ram) in enumerate(some, 1)
            ]
        ),
        "machines": rows(st.fixed_dictionaries({"name": TEXTS, "cluster": KEY_OR_NULL, "ha_group": st.none() | TEXTS})),
        "machine_status": rows(
            st.fixed_dictionaries(
                {"machine": KEY_OR_NULL, "node": KEY_OR_NULL, "running": st.booleans(), "status": TEXTS}
                | {"started": KEYS, "agent_guest_info": st.just([])}
            )
        ),
        "machine_drives": rows(
            st.fixed_dictionaries(
                {
                    "name": TEXTS,
                    "machine": KEY_OR_NULL,
                    "disksize": KEYS,
                    "preferred_tier": st.sampled_from(["1", "2", "10"]),
                }
            )
        ),
        "nodes": rows(st.fixed_dictionaries({"name": TEXTS})),
        "clusters": rows(st.fixed_dictionaries({"name": TEXTS})),
        "groups": rows(st.fixed_dictionaries({"name": TEXTS})),
        "tags": rows(st.fixed_dictionaries({"name": TEXTS})),
        "tag_members": rows(st.fixed_dictionaries({"tag": KEY_OR_NULL, "member": REFERENCES})),
    }
)


def conditions() -> st.SearchStrategy[Tree]:
    """Of a virtual machine: columns of its own and of others that keys lead to."""
    own: list[Path] = [(column.name,) for column in VMS.columns if column.kind is not Kind.JSON]
    others: list[Path] = [("machine", column.name) for column in MACHINES.columns]
    paths = [*own, *others, ("machine", "cluster", "name")]
    return st.tuples(st.just("is"), st.sampled_from(paths), OPERATORS, LITERALS).filter(_simple)


def _simple(tree: Tree) -> bool:
    """Patterns are texts in which nothing has a meaning."""
    return tree[2] != "rx" or not isinstance(tree[3], str) or tree[3].isalnum()


def chains(terms: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    """Terms with `and` and `or` between them."""
    joined = st.lists(st.tuples(st.sampled_from(("and", "or")), terms), min_size=1, max_size=4)
    return st.builds(lambda first, rest: ("chain", first, *rest), terms, joined)


FILTERS = st.recursive(conditions(), chains, max_leaves=8)


@st.composite
def wanted(draw: st.DrawFn, table: str = "vms", depth: int = 0) -> tuple[Tree, ...]:
    """Things of a table, of rows that these lead to, and so on."""
    found: list[Tree] = []
    for _ in range(draw(st.integers(1, 3))):
        found.append(draw(_thing(table, depth)))
    return tuple(found)


@st.composite
def _thing(draw: st.DrawFn, table: str, depth: int) -> Tree:
    alias = draw(st.sampled_from(("", "", "powerState", "x", "name")))
    here = table
    path: list[str] = []
    while here in HOPS and len(path) < 4 and draw(st.booleans()):
        hop = draw(st.sampled_from(HOPS[here]))
        target = _target(here, hop)
        path.append(hop)
        here = target
    if path and depth < 3 and draw(st.booleans()):
        inner = draw(wanted(here, depth + 1))
        return alias, tuple(path), draw(st.sampled_from(("", "", "", "count", "collapse", "sum"))), inner
    if not path and draw(st.integers(0, 4)) == 0:
        return "", ("all",), "", None
    names = (
        [column.name for column in CATALOG[here].columns] + list(CATALOG[here].singles) + list(CATALOG[here].children)
    )
    name = draw(st.sampled_from([*names, "nonsense"]))
    return alias, (*path, name), draw(st.sampled_from(("", "", "", *NUMBERS))), None


def _target(table: str, hop: str) -> str:
    belonging = CATALOG[table].singles.get(hop) or CATALOG[table].children.get(hop)
    if belonging is not None:
        return belonging.table
    column = CATALOG[table].column(hop)
    assert column is not None
    return column.refers.split(",")[0]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(SOURCES, FILTERS)
def test_a_filter_keeps_what_the_reference_keeps(sources: Sources, tree: Tree) -> None:
    query = parse_query({"filter": filter_text(tree), "fields": "$key"})
    expected = [{"$key": source["$key"]} for source in sources["vms"] if matches(sources, "vms", source, tree)]
    assert run(CATALOG, "vms", query, sources, 0) == expected


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(SOURCES, wanted(), st.integers(0, 3), st.integers(0, 3))
def test_rows_are_those_of_the_reference(sources: Sources, things: tuple[Tree, ...], limit: int, offset: int) -> None:
    query = parse_query({"fields": fields_text(things), "limit": str(limit), "offset": str(offset)})
    there = {name: found for name, found in sources.items() if name in needs(CATALOG, "vms", query)}
    end = offset + limit if limit else None
    expected = [answer(sources, "vms", source, things) for source in sources["vms"][offset:end]]
    assert run(CATALOG, "vms", query, there, 0) == expected
    assert TAG_MEMBERS.name not in there or "tags" in fields_text(things)
