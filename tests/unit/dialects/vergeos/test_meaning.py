"""Which grants follow from which rows."""

from __future__ import annotations

import json
from typing import Any

from polyvisor.dialects.vergeos.meaning import MEANINGS, VERBS, actions_of, leads_to, rule
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import EVERYTHING

HERE = ProjectId("here")
VIEW = "instance.view"


def _row(kind: str, key: int, subject: str = "", **data: Any) -> Row:
    return Row("vergeos", kind, str(key), HERE, subject, json.dumps(data), key)


def _granted(*rows: Row) -> set[tuple[str, str, str]]:
    return {(str(user), str(project), action.value) for user, project, action in rule(rows)}


def _in(key: int, group: int, member: str) -> Row:
    return _row("members", key, parent_group=group, member=member)


ANN, BOB = _row("users", 1, "ann"), _row("users", 2, "bob")
SEE: dict[str, Any] = {"table": "vms", "list": True}


def test_every_verb_of_everything_is_everything() -> None:
    for table in ("/", "all"):
        assert actions_of({"table": table, **dict.fromkeys(VERBS, True)}) == EVERYTHING
    assert all(set(verbs) == set(VERBS) for verbs in MEANINGS.values())


def test_a_verb_that_is_not_given_gives_nothing() -> None:
    assert {one.value for one in actions_of({"table": "vms", "list": True, "delete": False})} == {VIEW}
    assert actions_of({"table": "tenants", "list": True, "delete": True}) == frozenset()
    assert actions_of({"table": "users", "row": 7, "list": True, "modify": True}) == frozenset()


def test_to_a_user_and_to_whoever_is_in_a_group() -> None:
    rows = [ANN, BOB, _row("groups", 3), _row("groups", 4), _in(5, 3, "/v4/groups/4"), _in(6, 4, "users/2")]
    assert _granted(*rows, _row("permissions", 9, identity=1, **SEE)) == {("ann", "here", VIEW)}
    assert _granted(*rows, _row("permissions", 9, identity=3, **SEE)) == {("bob", "here", VIEW)}
    assert _granted(*rows, _row("permissions", 9, identity=7, **SEE)) == set()


def test_a_group_that_is_not_enabled_lends_nothing() -> None:
    rows = [ANN, BOB, _in(5, 3, "groups/4"), _in(6, 4, "users/2"), _in(7, 3, "users/1")]
    see = _row("permissions", 9, identity=3, **SEE)
    on: dict[str, Any] = {"enabled": True}
    off: dict[str, Any] = {"enabled": False}
    assert len(_granted(*rows, see, _row("groups", 3, **on), _row("groups", 4, **on))) == 2
    assert _granted(*rows, see, _row("groups", 3, **on), _row("groups", 4, **off)) == {("ann", "here", VIEW)}
    assert _granted(*rows, see, _row("groups", 3, **off), _row("groups", 4, **on)) == set()


def test_groups_in_each_other_come_to_an_end() -> None:
    rows = [ANN, _row("groups", 3), _row("groups", 4), _in(5, 3, "groups/4"), _in(6, 4, "groups/3"),
            _in(7, 4, "users/1")]  # fmt: skip
    assert _granted(*rows, _row("permissions", 9, identity=3, **SEE)) == {("ann", "here", VIEW)}
    assert leads_to(rows, 3, 4)
    assert leads_to(rows, 3, 3)
    assert not leads_to(rows[:4], 4, 3)
