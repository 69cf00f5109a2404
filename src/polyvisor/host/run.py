"""The only place that starts helper programs: a time limit, a cap on output, and a whole group to kill.

Limits are applied by util-linux wrappers (`unshare`, `setpriv`, `prlimit`) and not by code run between fork
and exec, which is unsafe in a threaded interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from polyvisor.model.faults import Internal, TimedOut, Unsupported

_CHUNK = 64 * 1024


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
    cwd: Path | None = None,
    max_output: int = 8 * 2**20,
    limits: Limits | None = None,
    fds: Sequence[int] = (),
    check: bool = True,
) -> Completed:
    """Run `argv` to its end; output beyond `max_output` bytes per stream kills it.

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
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(fds),
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
            if subprocess.run([*wrap, "true"], capture_output=True, timeout=5, check=False).returncode == 0:
                return wrap
        except (OSError, subprocess.TimeoutExpired):
            return []
    return []


async def pour(
    argv: Sequence[str], write: Callable[[BinaryIO], None], *, timeout: float, limits: Limits | None = None
) -> Completed:
    """Run `argv` to its end while `write` fills its stdin from a thread: for input that must not be in memory.

    What `write` raises is raised here; that the program stopped reading is told by its exit code alone.
    """
    reader, writer = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *_wrapped(argv, limits),
            stdin=reader,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as exc:
        os.close(writer)
        raise Unsupported(f"{argv[0]} is not installed on this host", private=str(exc)) from exc
    finally:
        os.close(reader)
    filling = asyncio.ensure_future(asyncio.to_thread(_fill, writer, write))
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
