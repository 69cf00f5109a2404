"""The only place that starts helper programs: a time limit, a cap on output, and a whole group to kill.

Nothing of our own environment reaches a helper: it may hold a database password, and our PATH may lack the
directories where Debian keeps half of the tools. Limits are applied by util-linux wrappers (`unshare`, `setpriv`,
`prlimit`) and not by code run between fork and exec, which is unsafe in a threaded interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from polyvisor.model.faults import Internal, TimedOut, Unsupported

_CHUNK = 64 * 1024
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": PATH, "HOME": "/nonexistent", "LC_ALL": "C"}
_proxies: dict[str, str] = {}


def find(program: str) -> str | None:
    """Where `program` is, looked for where `run` looks."""
    return shutil.which(program, path=PATH)


def use_proxies(variables: Mapping[str, str]) -> None:
    """The operator's way out, as `https_proxy` and the like: for helpers that go `online`. Once, at start-up."""
    _proxies.clear()
    _proxies.update(variables)


def proxies() -> Mapping[str, str]:
    """What was given to `use_proxies`."""
    return _proxies


def environment(extra: Mapping[str, str] | None = None, *, online: bool = False) -> dict[str, str]:
    """All that a helper sees of ours."""
    return {**_ENVIRONMENT, **(_proxies if online else {}), **(extra or {})}


@dataclass(frozen=True)
class Limits:
    """What a helper may use; None means no limit of ours. `uid` is also the gid; other groups are dropped."""

    cpu_seconds: int | None = None
    address_space: int | None = None
    file_size: int | None = None
    no_network: bool = False
    uid: int | None = None


@dataclass(frozen=True)
class Completed:
    """How a helper ended: `code` is negative for a signal, as in `subprocess`."""

    code: int
    out: bytes
    err: bytes


class _TooMuch(Exception):
    pass


async def run(  # noqa: PLR0913 - the one front door: every knob of a helper is here
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    online: bool = False,
    cwd: Path | None = None,
    max_output: int = 8 * 2**20,
    limits: Limits | None = None,
    fds: Sequence[int] = (),
    check: bool = True,
) -> Completed:
    """Run `argv` to its end; output beyond `max_output` bytes per stream kills it.

    `env` is added to the little that every helper gets, and the proxies with `online`; `fds` keep their numbers.

    :raise TimedOut: after `timeout` seconds; the process group is gone by then.
    :raise Unsupported: the program is not installed.
    :raise Internal: it failed (only with `check`) or wrote too much; the details are private text.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *_wrapped(argv, limits),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env, online=online),
            cwd=cwd,
            pass_fds=tuple(fds),
            start_new_session=True,
        )
    except FileNotFoundError as exc:
        raise Unsupported(f"{argv[0]} is not installed on this host", private=str(exc)) from exc
    except OSError as exc:
        raise Internal(private=f"{argv[0]}: {exc}") from exc
    try:
        async with asyncio.timeout(timeout):
            done = await _converse(process, stdin, max_output)
    except TimeoutError:
        await _kill(process)
        raise TimedOut(private=f"{argv[0]} ran longer than {timeout} s") from None
    except _TooMuch:
        await _kill(process)
        raise Internal(private=f"{argv[0]} wrote more than {max_output} bytes") from None
    except asyncio.CancelledError:
        await _kill(process)
        raise
    if check and done.code != 0:
        tail = done.err[-2000:].decode(errors="replace").strip()
        raise Internal(private=f"{' '.join(argv)[:500]}: exit {done.code}: {tail}")
    return done


async def _converse(process: asyncio.subprocess.Process, stdin: bytes | None, cap: int) -> Completed:
    assert process.stdout is not None and process.stderr is not None
    out, err = (
        asyncio.ensure_future(_drain(process.stdout, cap)),
        asyncio.ensure_future(_drain(process.stderr, cap)),
    )
    feed = asyncio.ensure_future(_feed(process.stdin, stdin))
    try:
        await asyncio.gather(out, err, feed)
        return Completed(await process.wait(), out.result(), err.result())
    finally:
        for task in (out, err, feed):
            task.cancel()


async def _drain(stream: asyncio.StreamReader, cap: int) -> bytes:
    got = bytearray()
    while chunk := await stream.read(_CHUNK):
        got += chunk
        if len(got) > cap:
            raise _TooMuch
    return bytes(got)


async def _feed(stream: asyncio.StreamWriter | None, data: bytes | None) -> None:
    if stream is None or data is None:
        return
    try:
        stream.write(data)
        await stream.drain()
        stream.close()
        await stream.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass  # a helper may end without reading all its input


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    transport = getattr(process, "_transport", None)
    if transport is not None:  # a grandchild that left the group may hold the pipes open for ever
        transport.close()


def _wrapped(argv: Sequence[str], limits: Limits | None) -> list[str]:
    """`argv` behind the wrappers that apply `limits`, outermost first."""
    if limits is None:
        return list(argv)
    wrap: list[str] = []
    if limits.no_network:
        wrap += _unshare()
    if limits.uid is not None and os.geteuid() == 0:
        ids = [f"--reuid={limits.uid}", f"--regid={limits.uid}", "--clear-groups"]
        wrap += ["setpriv", *ids, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]
    caps = {"cpu": limits.cpu_seconds, "as": limits.address_space, "fsize": limits.file_size}
    rlimits = [f"--{name}={value}" for name, value in caps.items() if value is not None]
    return [*wrap, "prlimit", "--core=0", *rlimits, "--", *argv]


@functools.cache
def _unshare() -> list[str]:
    """The wrapper that takes the network away, or nothing where this host does not let us."""
    for wrap in (["unshare", "-n", "--"], ["unshare", "-U", "--map-current-user", "-n", "--"]):
        try:
            done = subprocess.run([*wrap, "true"], capture_output=True, timeout=5, check=False, env=_ENVIRONMENT)
            if done.returncode == 0:
                return wrap
        except (OSError, subprocess.TimeoutExpired):
            return []
    return []


_ENTER = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sH22x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
door = socket.create_server(("127.0.0.1", 0))
with socket.socket(fileno=int(sys.argv[1])) as out:
    socket.send_fds(out, [b"x"], [door.fileno()])
way = "http://127.0.0.1:%d" % door.getsockname()[1]
os.execvp("env", ["env", "HTTPS_PROXY=" + way, "HTTP_PROXY=" + way, *sys.argv[2:]])
"""


def enclosed(argv: Sequence[str], fd: int) -> list[str]:
    """`argv` in a network of its own, where nothing is but a proxy: its listening socket is sent over `fd`."""
    wrap = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-current-user", "--keep-caps", "--net"]
    return [*wrap, "--", sys.executable, "-I", "-S", "-c", _ENTER, str(fd), *argv]


async def pour(
    argv: Sequence[str],
    write: Callable[[BinaryIO], None],
    *,
    threads: Executor,
    timeout: float,
    limits: Limits | None = None,
) -> Completed:
    """Run `argv` to its end while `write` fills its stdin from one of `threads`: for input too large for memory.

    What `write` raises is raised here; that the program stopped reading is told by its exit code alone.
    """
    reader, writer = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *_wrapped(argv, limits),
            stdin=reader,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
    except OSError as exc:
        os.close(writer)
        raise Unsupported(f"{argv[0]} is not installed on this host", private=str(exc)) from exc
    finally:
        os.close(reader)
    filling = asyncio.get_running_loop().run_in_executor(threads, _fill, writer, write)
    try:
        async with asyncio.timeout(timeout):
            done = await _converse(process, None, 2**20)
            await asyncio.shield(filling)
            return done
    except TimeoutError:
        raise TimedOut(private=f"{argv[0]} ran longer than {timeout} s") from None
    except _TooMuch:
        raise Internal(private=f"{argv[0]} wrote too much") from None
    finally:
        await _kill(process)  # without a reader the thread ends as well
        await asyncio.wait([filling])


def _fill(writer: int, write: Callable[[BinaryIO], None]) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "wb") as out:
        write(out)


def draw(argv: Sequence[str], stdin: int, read: Callable[[IO[bytes]], None], *, timeout: float) -> None:
    """Run `argv` to its end with that descriptor as its stdin, while `read` takes its stdout: for output too large for
    memory. It blocks its thread, and the program ends with it.

    :raise Internal: it failed, or is not there. What `read` raises is raised here, unless the program's failure is why.
    """
    try:
        process = subprocess.Popen(
            list(argv), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
            start_new_session=True,
        )  # fmt: skip
    except OSError as exc:
        raise Internal(private=f"{argv[0]}: {exc}") from exc
    assert process.stdout is not None and process.stderr is not None
    late = threading.Timer(timeout, process.kill)
    late.start()
    try:
        failure: Exception | None = None
        try:
            read(process.stdout)
        except Exception as error:  # it may be short because the program failed, which says more
            failure = error
            process.stdout.close()
        said = process.stderr.read(_CHUNK)
        if process.wait() != 0 and getattr(failure, "errno", None) is None:
            words = said[-2000:].decode(errors="replace").strip()
            raise Internal(private=f"{argv[0]}: exit {process.returncode}: {words}") from failure
        if failure is not None:
            raise failure
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
