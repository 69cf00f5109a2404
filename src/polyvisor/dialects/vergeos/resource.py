"""A table with what may be done to it: where its rows come from, and who makes, changes and removes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.responses import Response

from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.world import World
from polyvisor.engine import Engine
from polyvisor.model.ids import InstanceId
from polyvisor.model.principal import Principal

T = TypeVar("T")
log = logging.getLogger("polyvisor.vergeos")


class Locks:
    """One change of a VM by this API at a time: so of two who ask for the same one is told that it was done already."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, name: str) -> asyncio.Lock:
        """The lock of that thing; whoever waits for it or has it keeps it."""
        return self._held.setdefault(name, asyncio.Lock())


@dataclass(slots=True)
class Call:
    """One request on its way through."""

    request: Request
    core: Engine
    principal: Principal
    world: World
    locks: Locks
    jobs: Jobs

    @property
    def now(self) -> int:
        """Unix seconds."""
        return self.world.now

    def about(self, id: InstanceId) -> Call:
        """The same, which sees one VM alone."""
        return replace(self, world=self.world.about([id]))


class Jobs:
    """What goes on after its request was answered; ended with the server."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Do it, whoever waits for it."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def has(self, name: str) -> bool:
        """Whether one goes on whose name begins with this word, or is this."""
        return any(f"{task.get_name()} ".startswith(f"{name} ") for task in self._running)

    def find(self, name: str) -> asyncio.Task[Any] | None:
        """The one of that name that goes on."""
        return next((task for task in self._running if task.get_name() == name), None)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s failed: %r", task.get_name(), error)


@dataclass(frozen=True, slots=True)
class Made:
    """The key of a new row, and what its receipt says beside that."""

    key: object
    response: Mapping[str, str] | None = None


Load = Callable[[World], Awaitable[Sequence[Any]]]
Create = Callable[[Call, dict[str, Any]], Awaitable[Made]]
Change = Callable[[Call, Any, dict[str, Any]], Awaitable[None]]
Remove = Callable[[Call, Any], Awaitable[None]]
Act = Callable[[Call, Any, Mapping[str, Any]], Awaitable[object]]
Answer = Callable[[Call, Any], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Resource:
    """What cannot be done to a table has no function. `acts` are a row's actions by their names; `download` gives and
    `upload` takes a row's bytes. `of_vm`: its rows belong to VMs. `empty`: it never has any, whatever its columns."""

    table: Table
    load: Load
    create: Create | None = None
    change: Change | None = None
    remove: Remove | None = None
    acts: Mapping[str, Act] = field(default_factory=dict)
    download: Answer | None = None
    upload: Answer | None = None
    of_vm: bool = False
    empty: bool = False


async def nothing(world: World) -> Sequence[Any]:
    """The rows of a table of what one host cannot mean."""
    return ()
