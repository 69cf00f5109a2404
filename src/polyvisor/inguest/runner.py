"""Runs Python for callers from outside of the guest, in one session that outlives them, one call at a time.

`runner.py FOLDER` leaves a process that listens on FOLDER/socket and is answered for by FOLDER/lock; it ends at once
where there is one. A call is one connection. There: four bytes of length and a JSON object (`code`, `env`, `extra`,
`who`, `run`, and the seconds after which to `interrupt` and to `kill`). Back: frames of a letter, four bytes of length
and that many bytes: first an empty `h`, when it is the caller's turn; `o` and `e` are what the code says, `r` how it
ended, a JSON object, and the last.

The session is another process (`session.py`). It is killed where it does not heed an interrupt, and begun anew; what
it left running goes on, and may write for ever to where nobody reads any more.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LENGTH = struct.Struct("!I")
MOST = 64 * 1024 * 1024  # bytes of a request
CHUNK = 64 * 1024
BACKLOG = 1024 * 1024  # bytes that a slow caller may be behind; then the code has to wait
KILLED = 9
TIMED_OUT = 124
SIGNALLED = 128

_loop = selectors.DefaultSelector()


def watch(fileobj: Any, events: int, call: Callable[[], Any]) -> None:
    """Call when it is ready; with no events, no more."""
    known = fileobj in _loop.get_map()
    if not events:
        if known:
            _loop.unregister(fileobj)
    elif known:
        _loop.modify(fileobj, events, call)
    else:
        _loop.register(fileobj, events, call)


class Line:
    """A socket that is never waited for: frames in, bytes out. `taken` gets what came; `lost` says it is over."""

    def __init__(self, sock: socket.socket, taken: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.backlog = bytearray()
        self.closed = False
        self._came = bytearray()
        self._taken = taken
        self._lost = lost
        self._rewatch()

    def _rewatch(self) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.backlog else 0)
        watch(self.sock, events, self._ready)

    def send(self, data: bytes) -> None:
        """Put bytes on their way."""
        if not self.closed:
            self.backlog += data
            self._write()

    def _write(self) -> None:
        try:
            while self.backlog:
                sent = self.sock.send(memoryview(self.backlog)[:CHUNK])
                del self.backlog[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._fail()
            return
        self._rewatch()

    def _ready(self) -> None:
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self._fail()
            return
        self._came += data or b""
        self._write()
        self._cut()

    def _cut(self) -> None:
        while len(self._came) >= LENGTH.size and not self.closed:
            (size,) = LENGTH.unpack_from(self._came)
            if size > MOST:
                self._fail()
            elif len(self._came) < LENGTH.size + size:
                return
            else:
                frame = bytes(self._came[LENGTH.size : LENGTH.size + size])
                del self._came[: LENGTH.size + size]
                self._taken(frame)

    def _fail(self) -> None:
        if not self.closed:
            self.close()
            self._lost()

    def close(self) -> None:
        """Let go."""
        if not self.closed:
            self.closed = True
            watch(self.sock, 0, self._ready)
            self.sock.close()


class Drain:
    """One stream of the session. Somebody hears it or nobody does; it is read in either case, until its end."""

    def __init__(self, fd: int, kind: bytes) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.kind = kind
        self.heard: Callable[[bytes, bytes], None] | None = None
        self.open = True
        self.watched(True)

    def watched(self, wanted: bool) -> None:
        """Whether to read at all now."""
        if self.open:
            watch(self.fd, selectors.EVENT_READ if wanted else 0, self.read)

    def read(self) -> Any:
        """A piece; whether there may be more."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.watched(False)
            self.open = False
            os.close(self.fd)
            return False
        if self.heard:
            self.heard(self.kind, data)
        return True

    def exhaust(self) -> None:
        """All that is there."""
        while self.open and self.read():
            pass


class Session:
    """The process that holds the state."""

    def __init__(self, folder: str, said: Callable[[dict[str, Any]], None], ended: Callable[[int], None]) -> None:
        ours, its = socket.socketpair()
        out, its_out = os.pipe()
        err, its_err = os.pipe()
        argv = [sys.executable, os.path.join(folder, "session.py"), str(its.fileno())]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=its_out, stderr=its_err, pass_fds=[its.fileno()],
            start_new_session=True,
        )  # fmt: skip
        for fd in (its_out, its_err):
            os.close(fd)
        its.close()
        self.ready = False
        self.streams = [Drain(out, b"o"), Drain(err, b"e")]
        self._said = said
        self._ended = ended
        self.line = Line(ours, self._taken, self._gone)

    def _taken(self, frame: bytes) -> None:
        said = json.loads(frame)
        if "ready" in said:
            self.ready = True
        self._said(said)

    def _gone(self) -> None:
        """It has ended, or closed what it answers by, which is the same to us."""
        self.kill()
        self._ended(self.process.returncode)

    def hear(self, heard: Callable[[bytes, bytes], None] | None) -> None:
        """Who is told what it says from now on."""
        for stream in self.streams:
            stream.exhaust()
            stream.heard = heard
            stream.watched(True)

    def kill(self) -> None:
        """End it, but not what it has begun."""
        self.line.close()
        self.process.send_signal(KILLED)
        self.process.wait()

    def interrupt(self) -> None:
        """As if somebody pressed Ctrl-C."""
        if self.ready:
            self.process.send_signal(signal.SIGINT)


class Call:
    """One caller, from his request to the answer."""

    def __init__(self, runner: Runner, sock: socket.socket) -> None:
        self.runner = runner
        self.began = time.monotonic()
        self.line = Line(sock, self._asked, self._left)
        self.asked: dict[str, Any] = {}
        self.sent = self.interrupted = self.over = False
        self.line.send(self._frame(b"h", b""))

    def _asked(self, frame: bytes) -> None:
        if self.asked:
            return
        self.asked = json.loads(frame)
        self.began = time.monotonic()
        if self.runner.session.line.closed:  # it could not be begun when nobody asked for it
            self.runner.restart()
        self.runner.session.hear(self.heard)
        self.go()

    def go(self) -> None:
        """Give it to the session, if that is up."""
        if self.asked and not self.sent and self.runner.session.ready:
            self.sent = True
            frame = json.dumps(self.asked).encode()
            self.runner.session.line.send(LENGTH.pack(len(frame)) + frame)

    def heard(self, kind: bytes, data: bytes) -> None:
        """Pass on what the code says; while the caller does not take it, the code has to wait."""
        self.line.send(kind + LENGTH.pack(len(data)) + data)
        self.pace()

    def pace(self) -> None:
        """Listen to the code as the caller keeps up."""
        for stream in self.runner.session.streams:
            stream.watched(self.line.closed or len(self.line.backlog) < BACKLOG)

    def _left(self) -> None:
        """Nobody waits for the answer: what was begun for it is not to hold up the next."""
        if not self.asked or not self.sent:
            self.runner.done()
        else:
            self.interrupted = True
            self.runner.session.interrupt()
            self.pace()

    def left(self) -> float:
        """Seconds until something is to be done about it."""
        if not self.asked:
            return 5.0
        limit = self.asked["kill" if self.interrupted or not self.sent else "interrupt"]
        return max(0.0, self.began + float(limit) - time.monotonic())

    def expire(self) -> None:
        """The limit is reached."""
        if not self.asked:
            self.runner.done()
        elif not self.sent:
            self.answer(TIMED_OUT, 0.0, self._limit("the Python session was not up yet; the code was not run"))
        elif not self.interrupted:
            self.interrupted = True
            self.runner.session.interrupt()
        else:
            self.runner.session.kill()
            self.answer(TIMED_OUT, 0.0, self._limit("the Python session was ended and begins anew: its state is lost"))
            self.runner.restart()

    def _limit(self, what: str) -> str:
        return "the time limit of {:g} s was reached; {}".format(self.asked["limit"], what)

    def ended(self, said: dict[str, Any]) -> None:
        """The session has answered."""
        if self.interrupted:
            self.answer(TIMED_OUT, said["cpu_time"], self._limit("the code was interrupted"))
        else:
            self.answer(said["exit_code"], said["cpu_time"], "")

    def answer(self, code: int, cpu: float, note: str) -> None:
        """The last word."""
        self.runner.session.hear(None)
        if note:
            self.line.send(self._frame(b"e", note.encode() + b"\n"))
        how = {"exit_code": code, "cpu_time": cpu, "execution_time": time.monotonic() - self.began}
        self.line.send(self._frame(b"r", json.dumps(how).encode()))
        self.over = True

    def _frame(self, kind: bytes, data: bytes) -> bytes:
        return kind + LENGTH.pack(len(data)) + data


class Runner:
    """The session, and the call under way, if any."""

    def __init__(self, folder: str, listening: socket.socket) -> None:
        self._folder = folder
        self._listening = listening
        self.call: Call | None = None
        self.session = self._begin()
        listening.setblocking(False)
        watch(listening, selectors.EVENT_READ, self._accept)

    def _begin(self) -> Session:
        return Session(self._folder, self._said, self._ended)

    def _accept(self) -> None:
        try:
            sock, _ = self._listening.accept()
        except OSError:
            return
        watch(self._listening, 0, self._accept)
        self.call = Call(self, sock)

    def done(self) -> None:
        """The next one, please."""
        if self.call:
            self.call.line.close()
            self.call = None
            self.session.hear(None)
        watch(self._listening, selectors.EVENT_READ, self._accept)

    def restart(self) -> None:
        """Another session; what the old one left running is heard by nobody."""
        self.session.kill()
        self.session = self._begin()
        if self.call and not self.call.over:
            self.session.hear(self.call.heard)

    def _said(self, said: dict[str, Any]) -> None:
        if self.call is None:
            return
        if "ready" in said:
            self.call.go()
        elif self.call.sent and not self.call.over:
            self.call.ended(said)

    def _ended(self, code: int) -> None:
        call = self.call
        came_up = self.session.ready
        if call and call.sent and not call.over:
            told = SIGNALLED - code if code < 0 else code
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            call.answer(told, 0.0, f"the Python session {how} and begins anew: its state is lost")
        elif call and call.asked and not call.over:
            call.answer(1, 0.0, "the Python session cannot be begun")
        if came_up or call:
            self.restart()

    def serve(self) -> None:
        """For ever."""
        while True:
            call = self.call
            if call and (call.over and (call.line.closed or not call.line.backlog)):
                self.done()
                continue
            wait = None if call is None or call.over else call.left()
            for key, _ in _loop.select(wait):
                key.data()
            call = self.call
            if call:
                call.pace()
                if not call.over and call.left() <= 0:
                    call.expire()


def main() -> None:
    """Leave a runner behind, unless there is one."""
    folder = sys.argv[1]
    os.chmod(folder, 0o700)
    lock = os.open(os.path.join(folder, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    path = os.path.join(folder, "socket")
    if os.path.exists(path):
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    os.chmod(path, 0o600)
    listening.listen(64)
    if os.fork():
        os._exit(0)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    Runner(folder, listening).serve()


if __name__ == "__main__":
    main()
