"""What clients write becomes what columns are, or is refused in the words of the contract (vergeos.md §1.4, §1.5)."""

from __future__ import annotations

from typing import Any

import pytest

from polyvisor.dialects.vergeos.language.columns import Column, Kind, coerce
from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.language.receipts import receipt
from unit.dialects.vergeos.catalog import DRIVES, MACHINES, VMS, column

TOKEN = "a1" * 20


def text_of(column: Column, value: object) -> str:
    """What a value is refused with."""
    with pytest.raises(Refusal) as caught:
        coerce(column, value)
    assert caught.value.status == 422
    return caught.value.text


@pytest.mark.parametrize(
    ("kind", "value", "held"),
    [
        (Kind.BOOL, "true", True),
        (Kind.BOOL, "False", False),
        (Kind.BOOL, 1, True),
        (Kind.BOOL, 0.0, False),
        (Kind.BOOL, None, False),
        (Kind.INT, "42", 42),
        (Kind.INT, 42.0, 42),
        (Kind.INT, " 42.00 ", 42),
        (Kind.INT, -1, -1),
        (Kind.INT, "", None),
        (Kind.TEXT, 5, "5"),
        (Kind.TEXT, True, "true"),
        (Kind.TEXT, None, ""),
        (Kind.FK, "3", 3),
        (Kind.FK, "", None),
        (Kind.FK, None, None),
        (Kind.FK, TOKEN, TOKEN),
        (Kind.REF, "vms/42", "vms/42"),
        (Kind.REF, None, None),
        (Kind.TIME, "0", 0),
        (Kind.TIER, 1, "1"),
        (Kind.TIER, "3", "3"),
        (Kind.TOKEN, TOKEN, TOKEN),
        (Kind.KEY, "7", 7),
        (Kind.JSON, {"a": [1]}, {"a": [1]}),
        (Kind.JSON, None, None),
    ],
)
def test_what_is_sent_becomes_what_the_column_is(kind: Kind, value: object, held: object) -> None:
    made = coerce(column("x", kind), value)
    assert made == held
    assert type(made) is type(held)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.BOOL, "yes"),
        (Kind.BOOL, 2),
        (Kind.INT, "1.5"),
        (Kind.INT, 1.5),
        (Kind.INT, float("nan")),
        (Kind.INT, float("inf")),
        (Kind.INT, 10**30),
        (Kind.INT, "9" * 5000),
        (Kind.INT, [1]),
        (Kind.TEXT, {}),
        (Kind.TEXT, "a\0"),
        (Kind.TEXT, "\ud800"),
        (Kind.FK, "vms/42"),
        (Kind.REF, "42"),
        (Kind.REF, 42),
        (Kind.TIME, -1),
        (Kind.TIER, "fast"),
        (Kind.TOKEN, "xyz"),
        (Kind.KEY, "x"),
    ],
)
def test_what_a_column_is_not_is_refused(kind: Kind, value: object) -> None:
    assert text_of(column("x", kind), value).startswith("Validation error on field: 'x' - '")


def test_choices_have_aliases_and_their_own_refusal() -> None:
    machine = VMS.column("machine_type")
    assert machine is not None
    assert coerce(machine, "q35") == "pc-q35-10.0"
    assert text_of(machine, "killpower") == "value 'killpower' is not in list for field 'machine_type'"
    assert text_of(machine, "\ud800") == "value '?' is not in list for field 'machine_type'"


def test_bounds() -> None:
    bounded = column("ram", Kind.INT, low=256, high=1024)
    assert "from 256 to 1024" in text_of(bounded, 255)
    assert "from 256 to 1024" in text_of(bounded, "1025")
    named = column("name", Kind.STRING, shortest=2, longest=3, forbidden='"')
    for value in ("a", "abcd", 'a"'):
        assert "'name'" in text_of(named, value)
    assert "'owner'" in text_of(column("owner", Kind.REF, refers="vms,groups"), "tags/1")


def test_a_new_row_has_defaults_and_drops_what_nobody_knows() -> None:
    body = VMS.body(
        {"name": "t", "ram": "2048", "created": 5, "$key": 9, "show_advanced": True, "cluster": "1"}, new=True
    )
    assert body == {
        "name": "t", "ram": 2048, "cluster": 1, "enabled": True, "cpu_cores": 1, "os_family": "linux",
        "guest_agent": False, "uefi": False, "machine_type": "pc-q35-10.0", "cloudinit_datasource": "none",
    }  # fmt: skip


def test_an_update_has_only_what_was_sent() -> None:
    assert VMS.body({"ram": 2048, "nonsense": 1, "description": None}, new=False) == {"ram": 2048, "description": ""}


@pytest.mark.parametrize("name", ["key", "$key", "created"])
def test_what_only_the_server_writes_is_refused_in_an_update(name: str) -> None:
    with pytest.raises(Refusal, match="readonly") as caught:
        VMS.body({name: 5}, new=False)
    assert caught.value.text == f"field '{name}' is readonly"


@pytest.mark.parametrize("values", [{}, {"name": None}, {"name": ""}])
def test_what_is_required_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="'name'"):
        VMS.body(values, new=True)


def test_a_schema_says_types_lists_and_bounds() -> None:
    fields: Any = VMS.schema()["fields"]
    assert fields["machine_type"]["list"] == {"pc-q35-10.0": "Q35 10.0"}
    assert fields["machine_type"]["default"] == "pc-q35-10.0"
    assert fields["name"] == {"type": "string", "min": 1, "max": 128, "required": True}
    assert fields["ram"] == {"type": "num", "min": 256, "max": 1048576, "default": 1024}
    assert fields["created"] == {"type": "num", "readonly": True}
    assert fields["tags"]["type"] == "rows"
    assert "secret" not in fields
    assert MACHINES.schema()["name"] == "machines"
    assert DRIVES.column("nonsense") is None


def test_receipts() -> None:
    whole = receipt("vms", 42, {"machine": "54"})
    assert whole == {
        "location": "/v4/vms/42", "dbpath": "vms/42", "$row": 42, "$key": "42", "response": {"machine": "54"},
    }  # fmt: skip
    assert "response" not in receipt("machine_drives", 7)
    assert receipt("tokens", TOKEN) == {
        "location": f"/v4/tokens/{TOKEN}", "dbpath": f"tokens/{TOKEN}", "$row": 1, "$key": TOKEN,
    }  # fmt: skip
