"""The audit log: every verb of the engine is written down or only reads, and what is written tells what was done."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from polyvisor.engine import Engine
from polyvisor.engine.audit import RECORDED, AuditEngine, watch
from polyvisor.engine.repeats import Repeats
from polyvisor.model.faults import Busy, Throttled, Unauthenticated
from polyvisor.model.identity import AuditFilter
from polyvisor.model.ids import ProjectId
from polyvisor.model.network import Network, NetworkMode
from polyvisor.model.principal import EVERYTHING, SYSTEM, Credential, Principal, member
from polyvisor.server.config import Config
from polyvisor.store import SqlStore, open_store

NOW = datetime(2026, 3, 4, tzinfo=UTC)
P = ProjectId("p" * 24)
READING = {
    "get", "list", "find", "resolve", "earlier", "operation", "operations", "wait", "claim", "held", "usage", "taken",
    "last", "after", "follow", "status", "manifest", "of", "on", "standing", "enter", "shot", "journal", "log_file",
    "console", "exercise", "append", "finish", "instance", "autostart", "accounts", "traffic", "disk_counts", "called",
    "end", "sync", "run", "warm_up", "used", "credentials", "services", "requests", "news", "usable", "open",
}  # fmt: skip
"""Those that read, are a part of one that is recorded, or are what the server does by itself."""


def test_every_verb_is_written_down_or_reads() -> None:
    network = Network(NetworkMode.USER, Config().default_network().subnet)
    engine = Engine(MagicMock(), MagicMock(), network, lambda: NOW, Path("/nonexistent"))
    left = []
    for noun, thing in vars(engine).items():
        if noun.startswith("_") or not type(thing).__module__.startswith("polyvisor.engine"):
            continue
        for name, verb in inspect.getmembers(type(thing), inspect.iscoroutinefunction):
            asks = "principal" in inspect.signature(verb).parameters
            if asks and not name.startswith("_") and name not in RECORDED.get(noun, {}) and name not in READING:
                left.append(f"{noun}.{name}")
    assert left == []


@pytest.fixture
async def store() -> AsyncIterator[SqlStore]:
    """An empty one."""
    opened = await open_store("sqlite://")
    yield opened
    await opened.close()


class _Noun:
    """Two verbs, one of which refuses."""

    async def make(self, principal: Principal, name: str) -> Any:
        """A thing of a project."""
        return MagicMock(spec=["id", "project"], id="made", project=P)

    async def refuse(self, principal: Principal, name: str) -> None:
        """:raise Busy:"""
        raise Busy("not now\0")


async def test_what_came_of_it_is_written_for_who_may_read_it(store: SqlStore) -> None:
    audit, noun = AuditEngine(store, lambda: NOW), _Noun()
    watch(audit, noun, {"make": "thing.make", "refuse": "thing.refuse"})
    ann = member("ann", P)
    await noun.make(ann, "it")
    with pytest.raises(Busy):
        await noun.refuse(ann, "other\udcff")
    audit.note("ann", "1.1.1.1", "session.login", outcome="Unauthenticated")
    found = await audit.list(SYSTEM, AuditFilter(who="ann"))
    assert [(one.action, one.subject, one.outcome, one.project) for one in found] == [
        ("session.login", "", "Unauthenticated", ""),
        ("thing.refuse", "other?", "Busy", P),
        ("thing.make", "made", "ok", P),
    ]
    assert [one.action for one in await audit.list(ann, AuditFilter())] == ["thing.refuse", "thing.make"]
    assert await audit.list(member("bob", ProjectId("q" * 24), EVERYTHING), AuditFilter()) == []
    await audit.close()


async def test_logins_that_are_not_looked_at_are_counted_and_none_is_forgotten(store: SqlStore) -> None:
    audit = AuditEngine(store, lambda: NOW)
    here, there = Credential(name="root", source="9.9.9.9"), Credential(name="root", source="1.1.1.1")
    for _ in range(3):
        audit.note_refused(here, Unauthenticated())
    for _ in range(500):
        audit.note_refused(here, Throttled())
    audit.note_refused(there, Throttled())

    async def told() -> list[tuple[str, str, str]]:
        found = await audit.list(SYSTEM, AuditFilter(who="root"))
        return [(one.source, one.outcome, one.detail) for one in reversed(found)]

    first = [("9.9.9.9", "Unauthenticated", "")] * 3 + [("9.9.9.9", "Throttled", ""), ("1.1.1.1", "Throttled", "")]
    assert await told() == [*first, ("9.9.9.9", "Throttled", "499 times")]
    audit.note_refused(here, Throttled())
    audit.note_refused(there, Throttled())
    await audit.close()
    more = [(source, "Throttled", "") for source in ("9.9.9.9", "1.1.1.1")]
    assert await told() == [*first, ("9.9.9.9", "Throttled", "499 times"), *more]


async def test_what_is_repeated_is_told_with_its_number_when_the_window_ends() -> None:
    told: list[tuple[str, int]] = []
    repeats = Repeats[str](lambda key, count: told.append((key, count)), window=0.05)
    for _ in range(4):
        repeats.one("a")
    repeats.one("b")
    assert told == [("a", 1), ("b", 1)]
    await asyncio.sleep(0.15)
    assert told == [("a", 1), ("b", 1), ("a", 3)]
    repeats.one("a")
    assert told[-1] == ("a", 1)
