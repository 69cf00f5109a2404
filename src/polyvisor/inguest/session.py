"""The Python session itself: it runs what `runner.py` sends, as a notebook would, and keeps what comes of it.

IPython where the guest has it, the interpreter alone where not. What the code and its children say goes to this
process's own streams; on the socket of the given number there is only what to run, and how it ended.
"""

from __future__ import annotations

import ast
import contextlib
import json
import linecache
import os
import random
import re
import resource
import signal
import socket
import struct
import sys
import traceback
import types
import warnings
from typing import Any

LENGTH = struct.Struct("!I")
HOMES = ("/app", "/root", "/")
_PIP = r"%?(?=pip [a-z-])"
_COMMAND = re.compile(r"^(\s*)(?:!|" + _PIP + r")(.+)$", re.MULTILINE)


def exit_code(error: SystemExit) -> int:
    """What `exit(...)` means."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


class Plain:
    """The interpreter alone: statements, the value of the last expression, and lines that begin with `!` or `pip`."""

    def __init__(self) -> None:
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        self._names = main.__dict__
        self._count = 0

    def run(self, code: str) -> int:
        """Its exit code."""
        self._count += 1
        name = f"<cell {self._count}>"
        try:
            tree = self._parse(code, name)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, name, "exec"), self._names)  # noqa: S102 - it is what this is for
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), name, "eval"), self._names)  # noqa: S307 - as above
                self._names["_"] = value
                if value is not None:
                    print(repr(value))
        except SystemExit as error:
            return exit_code(error)
        except BaseException as error:
            self._tell(error)
            return 1
        return 0

    def _parse(self, code: str, name: str) -> ast.Module:
        try:
            if re.search("^" + _PIP, code, re.MULTILINE):
                raise SyntaxError  # or a subtraction, by the letter
            tree = ast.parse(code, name)
        except SyntaxError:
            code = _COMMAND.sub(lambda found: found[1] + f"__import__('os').system({found[2]!r});None", code)
            tree = ast.parse(code, name)
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        return tree

    def _tell(self, error: BaseException) -> None:
        trace: types.TracebackType | None = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        if isinstance(error, SyntaxError):
            trace = None
        traceback.print_exception(type(error), error, trace)


def notebook() -> Any:
    """IPython, made to speak like a notebook. :raise ImportError: there is none."""
    from IPython.core.displayhook import DisplayHook
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Echo(DisplayHook):  # type: ignore[misc]  # the type checker has no IPython to look at
        def write_output_prompt(self) -> None:
            """The value alone."""

    class Shell(InteractiveShell):  # type: ignore[misc]  # as above
        displayhook_class = Echo
        system = InteractiveShell.system_raw

        def ask_exit(self) -> None:
            """What `exit` without brackets calls; there is nothing to leave."""

        def showtraceback(self, exc_tuple: Any = None, *args: Any, **more: Any) -> None:
            kind = exc_tuple[0] if exc_tuple else sys.exc_info()[0]
            if kind is None or not issubclass(kind, SystemExit):
                super().showtraceback(exc_tuple, *args, **more)

        def _showtraceback(self, kind: Any, value: Any, lines: Any) -> None:
            print(self.InteractiveTB.stb2text(lines), file=sys.stderr)

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    config.InteractiveShell.xmode = "Plain"
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ipython")
    return Shell.instance(config=config, ipython_dir=folder)


class Notebook:
    """IPython."""

    def __init__(self) -> None:
        warnings.filterwarnings("ignore", "To exit:")  # nobody is meant to leave
        self._shell = notebook()
        self._shell.user_ns["exit"] = self._shell.user_ns["quit"] = sys.exit

    def run(self, code: str) -> int:
        """Its exit code."""
        done = self._shell.run_cell(code, store_history=True)
        error = done.error_before_exec or done.error_in_exec
        if isinstance(error, SystemExit):
            return exit_code(error)
        return 0 if error is None else 1


class Session:
    """Calls, one after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._streams = Streams()
        self._pid = os.getpid()
        self._told: dict[str, str] = {}
        self._who = ("", 0)
        self._home = next(home for home in HOMES if os.path.isdir(home))
        os.chdir(self._home)
        try:
            self._interpreter: Any = Notebook()
        except Exception:  # whatever an IPython of some sort does: without it there is still Python
            self._interpreter = Plain()

    def receive(self) -> dict[str, Any]:
        """What is to be run. :raise EOFError: nothing any more."""
        (size,) = LENGTH.unpack(self._exactly(LENGTH.size))
        asked: dict[str, Any] = json.loads(self._exactly(size))
        return asked

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._sock.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def send(self, said: dict[str, Any]) -> None:
        """To the runner."""
        frame = json.dumps(said).encode()
        self._sock.sendall(LENGTH.pack(len(frame)) + frame)

    def serve(self) -> None:
        """Until the runner leaves."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.send({"ready": True})
        while True:
            asked = self.receive()
            self._recognise(asked["who"], asked["run"])
            before = cpu()
            code = self._run(asked)
            if os.getpid() != self._pid:
                os._exit(code)  # a child that the code has made and not ended
            self.send({"exit_code": code, "cpu_time": cpu() - before})

    def _run(self, asked: dict[str, Any]) -> int:
        self._take(asked["env"])
        extra: dict[str, str] = asked["extra"]
        was = {name: os.environ.get(name) for name in extra}
        os.environ.update(extra)
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = self._interpreter.run(asked["code"])
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name, value in was.items():
            if os.environ.get(name) == extra[name]:
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        self._streams.settle()
        return code

    def _take(self, env: dict[str, str]) -> None:
        """The machine's variables, which change with what it is for; what the code has set otherwise stays."""
        for name in self._told.keys() - env.keys():
            if os.environ.get(name) == self._told[name]:
                del os.environ[name]
        for name, value in env.items():
            if self._told.get(name) != value:
                os.environ[name] = value
        self._told = env

    def _recognise(self, who: str, run: int) -> None:
        """In a copy, or in a machine that went on from its memory, nothing random is to come twice. A copy's place may
        have been mounted over."""
        if (who, run) == self._who:
            return
        if who != self._who[0] and os.getcwd() == self._home:
            os.chdir(self._home)
        self._who = (who, run)
        random.seed()
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed()
        tempfile = sys.modules.get("tempfile")
        if tempfile is not None:
            tempfile._name_sequence = None  # type: ignore[attr-defined]  # it draws names from a source of its own


def cpu() -> float:
    """Seconds that this process and those it waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Streams:
    """The two that the code speaks by, whatever it has done with them."""

    def __init__(self) -> None:
        self._kept = [os.dup(1), os.dup(2)]
        self._own = [self._open(1), self._open(2)]
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = self._own  # type: ignore[misc]  # they may be set

    def _open(self, fd: int) -> Any:
        return open(fd, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)

    def settle(self) -> None:
        """All is said, and they are there for the next call."""
        for stream in (sys.stdout, sys.stderr, *self._own):
            try:
                stream.flush()
            except Exception:  # noqa: S112 - closed, replaced: it is the code's own affair
                continue
        for i, own in enumerate(self._own):
            os.dup2(self._kept[i], i + 1)
            if own.closed:
                self._own[i] = self._open(i + 1)
                if i == 0:
                    sys.stdout = sys.__stdout__ = self._own[i]  # type: ignore[misc]  # as above
                else:
                    sys.stderr = sys.__stderr__ = self._own[i]  # type: ignore[misc]  # as above


def main() -> None:
    """Serve on the socket of the given number."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    sys.argv = [""]
    sys.path[0] = ""
    with contextlib.suppress(EOFError):
        Session(sock).serve()


if __name__ == "__main__":
    main()
