"""The audit log: every verb of the engine is written down or only reads, and what is written tells what was done."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from polyvisor.engine import Engine
from polyvisor.engine.audit import RECORDED, AuditEngine, watch
from polyvisor.model.faults import Busy
from polyvisor.model.identity import AuditFilter
from polyvisor.model.ids import ProjectId
from polyvisor.model.network import Network, NetworkMode
from polyvisor.model.principal import EVERYTHING, SYSTEM, Principal, member
from polyvisor.server.config import Config
from polyvisor.store import SqlStore, open_store

NOW = datetime(2026, 3, 4, tzinfo=UTC)
P = ProjectId("p" * 24)
READING = {
    "get", "list", "find", "resolve", "earlier", "operation", "operations", "wait", "claim", "held", "usage", "taken",
    "last", "after", "follow", "status", "manifest", "of", "on", "standing", "enter", "shot", "journal", "log_file",
    "console", "exercise", "append", "finish", "instance", "autostart",
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
