"""The one Caddy of a server: found, started, told what to serve, ended.

It outlives us as machines do. No record says which process it is: it is the one whose working directory is ours, where
nobody else can go. It runs under a uid of its own where we are root, with no right but that to take low ports, and
writes to one folder alone, where its admin socket is.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import shutil
from pathlib import Path

from polyvisor.host.ingress.document import ADMIN, DOORS, LOG, OWN, ROOTS, Json, bare
from polyvisor.host.pids import Process, start_ticks
from polyvisor.host.run import find
from polyvisor.host.sockets import connect_unix
from polyvisor.host.spawn import spawn
from polyvisor.model.faults import Invalid, TimedOut, Unavailable, Unsupported

log = logging.getLogger("polyvisor.host")
UID = 1_200_010  # nobody else's: behind those of machines and of helpers
_PROGRAM = "caddy"
_BARE = "bare.json"
_ARGV = (_PROGRAM, "run", "--config", _BARE)
_START_LIMIT = 20.0
_ASK_LIMIT = 15.0
_END_LIMIT = 5.0
_PAUSE = 0.05
_RIGHT = "net_bind_service"
_HOMELESS = {"HOME": "/nonexistent"}  # what it keeps is in its own folder


class Caddy:
    """From one task at a time only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gid = UID if os.geteuid() == 0 else None
        self._process: Process | None = None

    def make_folders(self) -> None:
        """Ours to write, Caddy's to read; one is its own."""
        for folder, mode in ((self.folder, 0o750), (self.folder / DOORS, 0o750), (self.folder / OWN, 0o700)):
            folder.mkdir(mode=0o700, exist_ok=True)
            if self.gid is not None:
                os.chown(folder, self.gid if folder.name == OWN else 0, self.gid)
            folder.chmod(mode)

    @property
    def running(self) -> bool:
        """Whether its process is known to be there."""
        return self._process is not None and not self._process.ended

    async def ended(self) -> None:
        """Returns once its process is gone."""
        if self._process is not None:
            await self._process.wait()

    async def adopt(self) -> Json | None:
        """The one that an earlier server left, and what that had told it; None: there is none that answers."""
        pids = _find(self.folder)
        for pid in pids[1:]:
            await self._end(Process(pid))
        if not pids:
            return None
        self._process = Process(pids[0])
        if _words(pids[0]) == list(_ARGV):
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                status, said = await self._ask("GET", "/config/")
                if status == 200:
                    return dict(json.loads(said))
        log.warning("the proxy of an earlier server is replaced")
        await self.stop()
        return None

    async def start(self) -> None:
        """It runs and answers. :raise Unsupported: it is not installed, or does not start here."""
        if self.running:
            return
        if find(_PROGRAM) is None:
            raise Unsupported("caddy, which answers for ingresses, is not installed on this host")
        for pid in _find(self.folder):
            await self._end(Process(pid))
        self.make_folders()
        (self.folder / OWN / ADMIN).unlink(missing_ok=True)
        self.put(_BARE, json.dumps(bare()))
        output = os.open(self.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            pid = await asyncio.to_thread(
                spawn, _line(self.gid), fds=(), output=output, env=_HOMELESS, cwd=str(self.folder)
            )
        except OSError as error:
            raise Unsupported("caddy does not start on this host", private=repr(error)) from error
        finally:
            os.close(output)
        self._process = Process(pid)
        await self._until_it_answers()

    def put(self, name: str, text: str) -> None:
        """A file that it may read."""
        part = self.folder / f"{name}.part"
        part.write_text(text)
        if self.gid is not None:
            os.chown(part, 0, self.gid)
        part.chmod(0o640)
        part.replace(self.folder / name)

    async def _until_it_answers(self) -> None:
        try:
            async with asyncio.timeout(_START_LIMIT):
                while self.running:
                    with contextlib.suppress(OSError, ValueError):
                        if (await self._ask("GET", "/config/"))[0] == 200:
                            return
                    await asyncio.sleep(_PAUSE)
        except TimeoutError:
            await self.stop()
        words = (self.folder / LOG).read_text(errors="replace")[-2000:]
        raise Unsupported("caddy does not start on this host", private=words)

    async def load(self, whole: Json) -> None:
        """From now on it serves this and nothing else; when it refuses it goes on with what it had.

        :raise Invalid: it refuses, `private` says why. :raise Unavailable: it does not answer.
        """
        try:
            status, said = await self._ask("POST", "/load", json.dumps(whole))
        except (OSError, ValueError, TimeoutError) as error:
            raise Unavailable("the proxy does not answer", private=repr(error)) from error
        if status != 200:
            words = said.decode(errors="replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                words = str(json.loads(said)["error"])
            raise Invalid("rules: the proxy refuses them", field="rules", private=words)

    async def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        """:raise OSError, ValueError, TimeoutError: no answer, or none that is one."""
        async with asyncio.timeout(_ASK_LIMIT + 1):
            try:
                return await asyncio.to_thread(_converse, self.folder / OWN / ADMIN, method, path, body)
            except http.client.HTTPException as error:
                raise OSError(repr(error)) from error

    async def stop(self) -> None:
        """It is gone. What it has made, its own authority for one, is kept."""
        process, self._process = self._process, None
        if process is not None:
            await self._end(process)

    async def _end(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, 15)
        try:
            async with asyncio.timeout(_END_LIMIT):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(TimedOut):
                await process.kill()

    def let_go(self) -> None:
        """It runs on."""
        if self._process is not None:
            self._process.let_go()

    def remove(self) -> None:
        """Doors and logs are gone as well; its own folder stays."""
        shutil.rmtree(self.folder / DOORS, ignore_errors=True)
        for name in (_BARE, LOG, ROOTS):
            (self.folder / name).unlink(missing_ok=True)


def _converse(admin: Path, method: str, path: str, body: str | None) -> tuple[int, bytes]:
    """One request over its admin socket; its rule for those is that they name no host."""
    connection = http.client.HTTPConnection("localhost", timeout=_ASK_LIMIT)
    connection.sock = connect_unix(admin)
    connection.sock.settimeout(_ASK_LIMIT)
    try:
        connection.request(method, path, body, {"Host": "", "Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _line(uid: int | None) -> list[str]:
    line = ["prlimit", "--core=0", "--"]
    if uid is not None:
        caps = f"-all,+{_RIGHT}"
        line += [
            "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", f"--inh-caps={caps}",
            f"--ambient-caps={caps}", f"--bounding-set={caps}", "--",
        ]  # fmt: skip
    return [*line, *_ARGV]


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def _find(folder: Path) -> list[int]:
    """Processes of that program which work there."""
    if not folder.exists():
        return []
    found = []
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with contextlib.suppress(OSError):
            mine = Path(f"/proc/{pid}/cwd").stat()
            if os.path.samestat(mine, folder.stat()) and _words(pid)[:1] == [_PROGRAM] and start_ticks(pid) is not None:
                found.append(pid)
    return found
