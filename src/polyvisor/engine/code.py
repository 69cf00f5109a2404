"""Running code in an instance: Python in a session that lasts as long as the instance runs, bash each time anew.

The session is kept by a process inside the guest (`inguest/runner.py`) and not by us: it is there for the next server,
and in a copy of the guest. It is begun when it is first needed. Whoever runs code may do anything in the guest anyway,
so what comes back is believed as far as it goes: bytes and an exit code. See docs/adr/0047.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from polyvisor import inguest
from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.streams import StreamsEngine, env_of, plain
from polyvisor.model.code import TIMED_OUT, Language, Ran
from polyvisor.model.faults import Invalid, TimedOut, Unavailable, Unsupported
from polyvisor.model.guest import Exec, Exit, Output
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.model.spec import check_env
from polyvisor.model.units import MIB, Seconds
from polyvisor.ports.guest import Guest, Process

FOLDER = "/run/polyvisor/code-1"  # another number where an older runner, in a copy's memory, would not be understood
_SOCKET = f"{FOLDER}/socket"
_SCRIPTS = ("session.py", "runner.py")
_MOST_CODE = 8 * MIB
_MOST_OUTPUT = 64 * MIB  # of each stream; what is more is dropped, and that is said
_IN_ARGV = 100_000  # bytes; Linux allows 128 KiB for one word
_LONGEST = 24 * 3600.0
_WARM_UP_LIMIT = 120.0
_MOST_FRAME = MIB  # the runner's are smaller; whoever sends others is not it
_LENGTH = struct.Struct("!I")
_SIGINT, _SIGKILL, _SIGNALLED = 2, 9, 128
_NO_SUCH_COMMAND = 127
_PLACE = (
    "if command -v bash >/dev/null 2>&1; then s=bash; else s=sh; fi; "
    "cd /app 2>/dev/null || cd /root 2>/dev/null || cd /; "
)
_BY_WORD = _PLACE + 'exec $s -c "$1"'
_BY_STDIN = _PLACE + """exec $s -c 'eval "$(cat)" </dev/null'"""


@dataclass(slots=True)
class _Heard:
    """What came so far."""

    pieces: dict[int, bytearray] = field(default_factory=lambda: {1: bytearray(), 2: bytearray()})
    cut: bool = False

    def take(self, fd: int, data: bytes) -> None:
        room = _MOST_OUTPUT - len(self.pieces[fd])
        self.cut = self.cut or len(data) > room
        self.pieces[fd] += data[:room]

    def note(self, text: str) -> None:
        self.pieces[2] += f"{text}\n".encode()

    def ran(self, code: int, took: float, cpu: float) -> Ran:
        if self.cut:
            self.note(f"the output was longer than {_MOST_OUTPUT} bytes; the rest of it was dropped")
        out, err = (self.pieces[fd].decode("utf-8", "replace") for fd in (1, 2))
        return Ran(out, err, code, Seconds(took), Seconds(cpu))


@dataclass(frozen=True, slots=True)
class _Clock:
    """A time limit, and the moments before it at which the code is interrupted and killed, so that the answer is there
    in time."""

    began: float
    limit: float

    @property
    def passed(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        return max(0.0, self.limit - self.passed)

    @property
    def margin(self) -> float:
        return min(2.0, 0.2 * self.limit)


class CodeEngine:
    """Code in running instances."""

    def __init__(self, instances: InstancesEngine, streams: StreamsEngine) -> None:
        self._instances = instances
        self._streams = streams
        self._turns: WeakValueDictionary[InstanceId, asyncio.Lock] = WeakValueDictionary()

    async def run(
        self, principal: Principal, key: str, code: str, language: Language = Language.PYTHON, *,
        timeout: float = 60.0, env: Mapping[str, str] | None = None,
    ) -> Ran:  # fmt: skip
        """Run it to its end, or to the time limit. What goes wrong with the code is told by the answer, not by a fault.

        :raise Invalid: naming the field. :raise NotFound, WrongState, Unavailable: the instance is not there, or up.
        :raise Unsupported: it has no Python. :raise TimedOut: it does not come up in time.
        """
        given = dict(env or {})
        _check(code, timeout, given)
        clock = _Clock(time.monotonic(), timeout)
        instance = await self._instances.get(principal, key, Action.INSTANCE_INTERACT)
        try:
            async with asyncio.timeout(clock.left):
                guest = await self._streams.guest(principal, instance.id)
        except TimeoutError as error:
            raise TimedOut(f"the instance did not come up within {timeout:g} s") from error
        instance = await self._instances.get(principal, instance.id, Action.INSTANCE_INTERACT)
        given = {**env_of(guest), **given}
        if language is Language.BASH:
            return await self._bash(guest, instance, code, given, clock)
        return await self._python(guest, instance, code, given, clock)

    async def warm_up(self, principal: Principal, key: str) -> None:
        """Let the Python session be up, so that it is in a copy's memory. An instance without Python is left as it is.

        :raise Fault: the guest does not answer.
        """
        try:
            await self.run(principal, key, "", timeout=_WARM_UP_LIMIT)
        except Unsupported:
            return

    # -- bash ----------------------------------------------------------------------------------------------------

    async def _bash(self, guest: Guest, instance: Instance, code: str, env: Mapping[str, str], clock: _Clock) -> Ran:
        script = code.encode()
        short = len(script) <= _IN_ARGV
        argv = ("sh", "-c", _BY_WORD, "sh", code) if short else ("sh", "-c", _BY_STDIN)
        process = await guest.execute(Exec(argv, {**dict(instance.spec.env), **env}, cwd="/", user="0"))
        heard = _Heard()
        try:
            feeding = asyncio.create_task(_feed(process, b"" if short else script))
            try:
                ended, note = await _until_end(process, heard, clock)
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
        finally:
            await process.close()
        cpu = ended.cpu or 0.0 if ended else 0.0
        if note:
            heard.note(f"the time limit of {clock.limit:g} s was reached; {note}")
            return heard.ran(TIMED_OUT, clock.passed, cpu)
        assert ended is not None  # it was waited for
        code_of = ended.code if ended.code is not None else _SIGNALLED + (ended.signal or 0)
        return heard.ran(code_of, clock.passed, cpu)

    # -- Python --------------------------------------------------------------------------------------------------

    async def _python(self, guest: Guest, instance: Instance, code: str, env: Mapping[str, str], clock: _Clock) -> Ran:
        heard = _Heard()
        turn = self._turns.setdefault(instance.id, asyncio.Lock())
        try:
            async with asyncio.timeout(clock.left - clock.margin / 4), turn, self._session(guest, instance) as session:
                ask = {
                    "code": code, "env": dict(instance.spec.env), "extra": env, "who": str(instance.id),
                    "run": instance.observed.incarnation, "limit": clock.limit,
                    "interrupt": clock.left - clock.margin, "kill": clock.left - clock.margin / 2,
                }  # fmt: skip
                data = json.dumps(ask).encode("utf-8", "surrogatepass")
                await session.process.write(_LENGTH.pack(len(data)) + data)
                return await _answer(session, heard, clock)
        except TimeoutError:
            heard.note(f"the time limit of {clock.limit:g} s was reached; no answer came from the Python session")
            return heard.ran(TIMED_OUT, clock.passed, 0.0)

    @asynccontextmanager
    async def _session(self, guest: Guest, instance: Instance) -> AsyncIterator[_Frames]:
        """A connection to the session in the guest, which takes a call. It is begun where it is not there."""
        frames = await _connect(guest)
        if frames is None:
            await self._begin(guest, instance)
            frames = await _connect(guest)
        if frames is None:
            raise Unavailable("the Python session in the instance does not answer")
        try:
            yield frames
        finally:
            await frames.process.close()

    async def _begin(self, guest: Guest, instance: Instance) -> None:
        for name in _SCRIPTS:
            await guest.write_file(f"{FOLDER}/{name}", _once(inguest.text(name)), mode=0o600)
        ask = Exec(("python3", f"{FOLDER}/runner.py", FOLDER), dict(instance.spec.env), cwd="/", user="0")
        process = await plain(guest).execute(ask)  # each call brings its own
        heard = _Heard()
        try:
            await process.eof()
            while isinstance(said := await process.read(), Output):
                heard.take(said.fd, said.data)
        finally:
            await process.close()
        if said.code == _NO_SUCH_COMMAND:
            raise Unsupported("language: the instance has no python3", field="language")
        if said.code != 0:
            raise Unavailable(
                "the Python session cannot be begun", private=bytes(heard.pieces[2])[-500:].decode("latin-1")
            )


class _Frames:
    """What the runner says: a letter, a length, and that many bytes."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._came = bytearray()

    async def next(self) -> tuple[bytes, bytes] | None:
        """None: it is gone. :raise Unavailable: so is the guest's agent, or nobody listened."""
        head = await self._exactly(1 + _LENGTH.size)
        if head is None:
            return None
        (size,) = _LENGTH.unpack(head[1:])
        payload = await self._exactly(size) if size <= _MOST_FRAME else None
        return None if payload is None else (head[:1], payload)

    async def _exactly(self, size: int) -> bytes | None:
        while len(self._came) < size:
            said = await self.process.read()
            if isinstance(said, Exit):
                return None
            self._came += said.data
        piece = bytes(self._came[:size])
        del self._came[:size]
        return piece


def _check(code: str, timeout: float, env: Mapping[str, str]) -> None:
    """:raise Invalid: naming the field."""
    try:
        size = len(code.encode())
    except UnicodeEncodeError as error:
        raise Invalid("code: is not valid Unicode", field="code") from error
    if size > _MOST_CODE:
        raise Invalid(f"code: is longer than {_MOST_CODE} bytes", field="code")
    if "\0" in code:
        raise Invalid("code: must not hold a NUL character", field="code")
    if not 0 < timeout <= _LONGEST:
        raise Invalid(f"timeout: must be between 0 and {_LONGEST:g} seconds", field="timeout")
    check_env(tuple(env.items()))
    if any("\0" in value for value in env.values()):
        raise Invalid("env: a value must not hold a NUL character", field="env")


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _feed(process: Process, script: bytes) -> None:
    await process.write(script)
    await process.eof()


async def _until_end(process: Process, heard: _Heard, clock: _Clock) -> tuple[Exit | None, str]:
    """How it ended, and what had to be done to it for that."""
    steps = (
        (clock.margin, _SIGINT, "the script was interrupted"),
        (clock.margin / 2, _SIGKILL, "the script was killed"),
    )
    note = ""
    for before, signal, word in steps:
        try:
            async with asyncio.timeout(max(0.0, clock.left - before)):
                return await _listen(process, heard), note
        except TimeoutError:
            await process.signal(signal)
            note = word
    try:
        async with asyncio.timeout(clock.left - clock.margin / 4):
            return await _listen(process, heard), note
    except TimeoutError:
        return None, note


async def _listen(process: Process, heard: _Heard) -> Exit:
    while isinstance(said := await process.read(), Output):
        heard.take(said.fd, said.data)
    return said


async def _connect(guest: Guest) -> _Frames | None:
    """None: nobody listens."""
    process: Process | None = None
    try:
        process = await guest.connect_to(_SOCKET)
        frames = _Frames(process)
        if await frames.next() is not None:
            process = None  # it is the caller's
            return frames
    except Unavailable:
        if guest.closed:
            raise
    except Unsupported as fault:
        text = "language: the agent in the instance is older than sessions of Python; start the instance anew"
        raise Unsupported(text, field="language") from fault
    finally:
        if process is not None:
            await process.close()
    return None


async def _answer(session: _Frames, heard: _Heard, clock: _Clock) -> Ran:
    streams = {b"o": 1, b"e": 2}
    while (frame := await session.next()) is not None:
        kind, payload = frame
        if kind in streams:
            heard.take(streams[kind], payload)
        elif kind == b"r":
            try:
                how = json.loads(payload)
                return heard.ran(int(how["exit_code"]), clock.passed, float(how["cpu_time"]))
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                break  # root of the guest may be anybody
    heard.note("the Python session was ended from within the instance: its state is lost")
    return heard.ran(1, clock.passed, 0.0)
