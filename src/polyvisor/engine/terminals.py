"""Terminals: a login shell in a guest, for whoever may interact with it or comes with a ticket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic

from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.streams import StreamsEngine
from polyvisor.engine.tickets import Ticket, Tickets
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, NotFound, Unauthenticated, WrongState
from polyvisor.model.guest import Exec, Exit, Output
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.guest import Guest, Process

__all__ = ["Process", "TerminalsEngine"]  # dialects know a process by this module

MOST = 10  # of one machine at once
MOST_SIDE = 1000  # columns or rows
_SHELLS = ("/bin/bash", "/bin/sh")
_HOME = "/root"


class TerminalsEngine:
    """Tickets for terminals, and terminals."""

    def __init__(
        self, streams: StreamsEngine, instances: InstancesEngine, clock: Callable[[], float] = monotonic
    ) -> None:
        self._streams = streams
        self._instances = instances
        self._tickets = Tickets(clock)
        self._open: Counter[InstanceId] = Counter()

    async def ticket(self, principal: Principal, key: str) -> Ticket:
        """For one terminal. :raise WrongState: it does not run. :raise NotFound, Forbidden:"""
        return self._tickets.give(principal, (await self._running(principal, key)).id)

    def redeem(self, ticket: str, id: str) -> Principal:
        """Whose ticket for that machine it is; it is gone, also when it is for another one.

        :raise Unauthenticated: it is none, was used, is too old or for another machine.
        """
        try:
            who, held = self._tickets.take(ticket)
        except NotFound as error:
            raise Unauthenticated("the token is not known, was used or is too old") from error
        if held != id:
            raise Unauthenticated("the token is for another machine")
        return who

    async def open(self, principal: Principal, key: str, cols: int = 80, rows: int = 24) -> Process:
        """A login shell of root's, on a terminal of that size.

        :raise WrongState: it does not run. :raise Busy: it has as many as may be. :raise Unavailable: no agent answers.
        """
        instance = await self._running(principal, key)
        if self._open[instance.id] >= MOST:
            raise Busy(f"the machine has {MOST} terminals already")
        self._open[instance.id] += 1
        try:
            guest = await self._streams.guest(principal, instance.id)
            return _Counted(await guest.execute(await _login(guest, cols, rows)), lambda: self._left(instance.id))
        except BaseException:
            self._left(instance.id)
            raise

    def _left(self, id: InstanceId) -> None:
        self._open[id] -= 1
        if self._open[id] <= 0:
            del self._open[id]

    async def _running(self, principal: Principal, key: str) -> Instance:
        instance = await self._instances.get(principal, key, Action.INSTANCE_INTERACT, anew=True)
        if face(instance) is not Face.RUNNING:
            raise WrongState(f"the instance is {face(instance)}: it must run to have a terminal")
        return instance


async def _login(guest: Guest, cols: int, rows: int) -> Exec:
    """What is there to be run: small guests have only `sh`, and no home."""
    shell = _SHELLS[0] if (await guest.stat(_SHELLS[0], follow=True)).exists else _SHELLS[1]
    home = (await guest.stat(_HOME, follow=True)).kind == "directory"
    env = {"TERM": "xterm-256color", "HOME": _HOME if home else "/", "SHELL": shell}
    return Exec((shell, "-l"), env, cwd=_HOME if home else None, tty=True, cols=cols, rows=rows)


class _Counted:
    """A Process of whose end somebody is told, once."""

    def __init__(self, process: Process, left: Callable[[], None]) -> None:
        self._process = process
        self._left: Callable[[], None] | None = left

    async def read(self) -> Output | Exit:
        """See Process."""
        return await self._process.read()

    async def write(self, data: bytes) -> None:
        """See Process."""
        await self._process.write(data)

    async def eof(self) -> None:
        """See Process."""
        await self._process.eof()

    async def signal(self, number: int) -> None:
        """See Process."""
        await self._process.signal(number)

    async def resize(self, cols: int, rows: int) -> None:
        """See Process."""
        await self._process.resize(cols, rows)

    async def close(self) -> None:
        """See Process."""
        left, self._left = self._left, None
        if left is not None:
            left()
            await self._process.close()
