"""What the runner of a guest promises its caller, asked of it here: it is a script for any Python."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from polyvisor import inguest

LENGTH = struct.Struct("!I")
PYTHON = "/usr/bin/python3" if shutil.which("/usr/bin/python3") else "python3"  # any, with IPython or without


@dataclass(frozen=True, slots=True)
class Said:
    """An answer."""

    out: str
    err: str
    code: int
    cpu: float


class Runner:
    """A runner in a folder, and one way to call it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("runner.py", "session.py"):
            (folder / name).write_bytes(inguest.text(name))
        self.begin()

    def begin(self) -> None:
        """As a server does that finds nobody there, or somebody who is just coming up."""
        subprocess.run([PYTHON, str(self.folder / "runner.py"), str(self.folder)], check=True, timeout=30)

    def connect(self) -> socket.socket:
        """A call that has its turn."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(30)
        sock.connect(str(self.folder / "socket"))
        assert sock.recv(5) == b"h" + LENGTH.pack(0)
        return sock

    def ask(self, sock: socket.socket, code: str, limit: float = 20.0, **more: Any) -> None:
        """Its request."""
        asked = {"code": code, "env": {}, "extra": {}, "who": "one", "run": 1, "limit": limit}
        asked |= {"interrupt": limit, "kill": limit + 1} | more
        data = json.dumps(asked).encode()
        sock.sendall(LENGTH.pack(len(data)) + data)

    def __call__(self, code: str, limit: float = 20.0, **more: Any) -> Said:
        """A whole call."""
        with self.connect() as sock, sock.makefile("rb") as frames:
            self.ask(sock, code, limit, **more)
            said = {b"o": b"", b"e": b""}
            while True:
                kind = frames.read(1)
                payload = frames.read(LENGTH.unpack(frames.read(4))[0])
                if kind == b"r":
                    how = json.loads(payload)
                    return Said(said[b"o"].decode(), said[b"e"].decode(), how["exit_code"], how["cpu_time"])
                said[kind] += payload

    def pids(self) -> tuple[int, int]:
        """The session's process and the runner's."""
        one, other = self("import os\nprint(os.getpid(), os.getppid())").out.split()
        return int(one), int(other)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """One for all tests: that it goes on is what they are about."""
    made = Runner(tmp_path_factory.mktemp("r"))
    yield made
    for pid in made.pids():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def run(runner: Runner) -> Runner:
    """It, with something to remember."""
    said = runner("x = 42")
    assert (said.out, said.err, said.code) == ("", "", 0) and said.cpu >= 0
    return runner


def test_state_stays_and_a_last_value_is_shown(run: Runner) -> None:
    assert run("x + 1").out == "43\n"
    assert run("def f():\n    return x\nf()").out == "42\n"
    assert run("None").out == ""


def test_both_streams_come_from_whoever_writes_there(run: Runner) -> None:
    said = run("import os, sys\nprint('a')\nos.system('echo b; echo c >&2')\nprint('d', file=sys.stderr)")
    assert (said.out, said.err, said.code) == ("a\nb\n", "c\nd\n", 0)
    assert run("!echo shell").out == "shell\n"
    assert run("pip --version").out.startswith("pip ") or "pip" in run("pip --version").err


def test_much_comes_through_whole(run: Runner) -> None:
    assert run("print('é' * 1500000)").out == "é" * 1500000 + "\n"


def test_what_goes_wrong_is_told_and_forgiven(run: Runner) -> None:
    said = run("1/0")
    assert said.code == 1 and "ZeroDivisionError" in said.err and "session.py" not in said.err
    assert "SyntaxError" in run("if:").err
    assert (run("exit()").code, run("exit(3)").code, run("raise SystemExit('bye')").err) == (0, 3, "bye\n")
    assert run("input()").code == 1
    assert run("import sys\nsys.stdout.close()").code == 0
    assert run("x").out == "42\n"


def test_who_forks_is_answered_once(run: Runner) -> None:
    assert run("import os, time\nif os.fork(): time.sleep(0.5)\nprint('here')").out == "here\nhere\n"
    assert run("x").out == "42\n"


def test_variables_of_the_machine_stay_and_those_of_a_call_go(run: Runner) -> None:
    code = "import os\nos.environ.get('A'), os.environ.get('B')"
    assert run(code, env={"A": "1"}, extra={"B": "2"}).out == "('1', '2')\n"
    assert run(code, env={"A": "1"}).out == "('1', None)\n"
    run("os.environ['A'] = 'mine'", env={"A": "1"})
    assert run(code, env={"A": "1"}).out == "('mine', None)\n"
    assert run(code, env={"A": "other"}).out == "('other', None)\n"


def test_a_copy_draws_other_numbers(run: Runner) -> None:
    drawn = []
    for who, count in (("one", 1), ("two", 1), ("two", 2)):
        run("import random\nrandom.seed(1)")
        drawn.append(run("random.random()", who=who, run=count).out)
    assert drawn[0] == "0.13436424411240122\n" and len(set(drawn)) == 3
    run("0")


def test_the_limit_interrupts(run: Runner) -> None:
    said = run("import time\ntime.sleep(60)", 0.5)
    assert (said.code, said.out) == (124, "") and "interrupted" in said.err
    assert run("x").out == "42\n"


def test_who_leaves_does_not_hold_up_the_next(run: Runner) -> None:
    with run.connect() as sock:
        run.ask(sock, "import time\ny = 'begun'\ntime.sleep(60)", 60.0)
        time.sleep(0.5)
    assert run("y").out == "'begun'\n"


def test_what_runs_on_behind_writes_to_where_nobody_reads(run: Runner, tmp_path: Path) -> None:
    done = tmp_path / "done"
    script = f"for i in 1 2 3 4 5; do echo said; sleep 0.1; done; touch {done}"
    assert run(f"import subprocess\np = subprocess.Popen(['sh', '-c', {script!r}])").code == 0
    limit = time.monotonic() + 20
    while not done.exists() and time.monotonic() < limit:
        time.sleep(0.1)
    assert done.exists()
    assert run("p.wait()").out == "0\n"


def test_a_second_one_is_none(run: Runner) -> None:
    before = run.pids()
    run.begin()
    assert run.pids() == before


def test_who_heeds_no_interrupt_is_ended_and_begun_anew(run: Runner) -> None:
    deaf = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    said = run(deaf, 1.0, kill=1.5)
    assert said.code == 124 and "begins anew" in said.err
    assert "NameError" in run("x").err


@pytest.mark.parametrize(("how", "code"), [("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", 137)])
def test_a_session_that_ends_is_begun_anew(run: Runner, how: str, code: int) -> None:
    said = run(f"import os\n{how}")
    assert said.code == code and "begins anew" in said.err
    assert run("1").out == "1\n"
