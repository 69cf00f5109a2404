"""A guest with a dozen commands and files in memory: enough to show that streams, exit codes and files pass through."""

from __future__ import annotations

import asyncio
import posixpath
import re
import shlex
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from polyvisor.host.guest import pairs
from polyvisor.host.hypervisor.fake import archive
from polyvisor.host.hypervisor.fake.runner import SpokenTo
from polyvisor.host.hypervisor.fake.tongue import Tongue
from polyvisor.model.faults import Busy, Invalid, NotFound, Unavailable
from polyvisor.model.guest import Change, Exec, Exit, FileStat, Identity, Output
from polyvisor.model.instance import Address

_VARIABLE = re.compile(r"\$([A-Za-z_]\w*|\?)")


class FakeProcess:
    """A command of `FakeGuest`."""

    def __init__(self, guest: FakeGuest, ask: Exec) -> None:
        self._said: asyncio.Queue[Output | Exit] = asyncio.Queue()
        self._stdin: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._guest = guest
        self._size = (ask.rows, ask.cols)
        self._newline = "\n"
        self._task = asyncio.create_task(self._run(ask))

    async def _run(self, ask: Exec) -> None:
        try:
            async with asyncio.timeout(ask.timeout):
                code = await self._command(list(ask.argv), ask)
            self._said.put_nowait(Exit(code=code))
        except TimeoutError:
            self._said.put_nowait(Exit(timed_out=True))
        except (ValueError, IndexError) as error:  # words that make no command
            self._say(2, f"{error}\n")
            self._said.put_nowait(Exit(code=2))

    async def _command(self, argv: list[str], ask: Exec) -> int:
        name, words = argv[0].rsplit("/", 1)[-1], argv[1:]
        if name in ("sh", "bash", "ash") and words == ["-l"]:
            return await self._shell(ask)
        if name in ("sh", "bash", "ash") and words[:1] == ["-c"]:
            return await self._script(await self._text(words), ask)
        builtin = getattr(self, f"_do_{name}", None)
        if builtin is None:
            self._say(2, f"{name}: not found\n")
            return 127
        return int(await builtin(words, ask))

    async def _text(self, words: list[str]) -> str:
        """The script: of a shell that runs another with its argument, or with its input, that."""
        if len(words) > 3:
            return words[3]
        if "$(cat)" not in words[1]:
            return words[1]
        said = []
        while (data := await self._stdin.get()) is not None:
            said.append(data)
        return b"".join(said).decode()

    async def _script(self, script: str, ask: Exec) -> int:
        code = 0
        for line in script.replace("&&", ";").replace("\n", ";").split(";"):
            words = _expand(shlex.split(line), {**self._guest.env, **ask.env, "?": str(code)})
            if not words:
                continue
            if words[0] == "exit":
                return int(words[1]) if len(words) > 1 else code
            code = await self._command(words, ask)
        return code

    async def _shell(self, ask: Exec) -> int:
        """Line by line, shown as they come; `exit` or the end of its input ends it."""
        self._newline = "\r\n" if ask.tty else "\n"
        self._say(1, "# ")
        line, code = "", 0
        while (data := await self._stdin.get()) is not None:
            for char in data.decode(errors="replace").replace("\r", "\n"):
                self._say(1, char)
                if char != "\n":
                    line += char
                    continue
                words = line.split()
                if words[:1] == ["exit"]:
                    return int(words[1]) if len(words) > 1 else code
                code, line = await self._script(line, ask), ""
                self._say(1, "# ")
        return code

    def _say(self, fd: int, text: str) -> None:
        self._said.put_nowait(Output(fd, text.replace("\n", self._newline).encode()))

    async def _do_true(self, words: list[str], ask: Exec) -> int:
        return 0

    async def _do_false(self, words: list[str], ask: Exec) -> int:
        return 1

    async def _do_echo(self, words: list[str], ask: Exec) -> int:
        fd = 2 if ">&2" in words else 1
        self._say(fd, " ".join(w for w in words if w != ">&2") + "\n")
        return 0

    async def _do_uname(self, words: list[str], ask: Exec) -> int:
        self._say(1, "Linux fake 0.0 x86_64\n")
        return 0

    async def _do_python3(self, words: list[str], ask: Exec) -> int:
        """It keeps a session, as the runner does that it is given."""
        self._guest.session = Tongue(self._guest.files, dict(ask.env))
        return 0

    async def _do_hostname(self, words: list[str], ask: Exec) -> int:
        self._say(1, self._guest.hostname + "\n")
        return 0

    async def _do_whoami(self, words: list[str], ask: Exec) -> int:
        self._say(1, (ask.user or "root") + "\n")
        return 0

    async def _do_env(self, words: list[str], ask: Exec) -> int:
        self._say(1, "".join(f"{k}={v}\n" for k, v in {**self._guest.env, **ask.env}.items()))
        return 0

    async def _do_stty(self, words: list[str], ask: Exec) -> int:
        self._say(1, f"{self._size[0]} {self._size[1]}\n")
        return 0

    async def _do_sleep(self, words: list[str], ask: Exec) -> int:
        await asyncio.sleep(float(words[0]))
        return 0

    async def _do_mkdir(self, words: list[str], ask: Exec) -> int:
        return 0

    async def _do_rm(self, words: list[str], ask: Exec) -> int:
        self._guest.files.pop(words[-1], None)
        return 0

    async def _do_tar(self, words: list[str], ask: Exec) -> int:
        return 0 if words[1] in self._guest.files else 2

    async def _do_buildah(self, words: list[str], ask: Exec) -> int:
        """It tells the steps of a Dockerfile, does those that are a `true`, `false`, `echo`, `sleep` or `env`, and
        makes an archive with nothing in it."""
        if words[0] == "push":
            self._guest.files[words[-1].partition(":")[2]] = b"archive"
        elif words[0] == "inspect":
            return 0 if words[-1] in self._guest.files else 1
        elif words[0] == "pull":
            self._say(1, "0123456789ab\n")
        elif words[0] == "tag":
            self._guest.files[words[-1]] = b""
        if words[0] != "bud":
            return 0
        steps = self._guest.files[words[words.index("-f") + 1]].decode().splitlines()
        for number, line in enumerate(steps, 1):
            self._say(1, f"STEP {number}/{len(steps)}: {line}\n")
            if line.startswith("RUN ") and (code := await self._script(line.removeprefix("RUN "), ask)):
                self._say(2, f'Error: building at STEP "{line}": exit status {code}\n')
                return code
        return 0

    async def _do_cat(self, words: list[str], ask: Exec) -> int:
        if words:
            self._said.put_nowait(Output(1, self._guest.files.get(words[0], b"")))
            return 0 if words[0] in self._guest.files else 1
        while (data := await self._stdin.get()) is not None:
            self._said.put_nowait(Output(1, data))
        return 0

    async def read(self) -> Output | Exit:
        """See Process."""
        return await self._said.get()

    async def write(self, data: bytes) -> None:
        """See Process."""
        self._stdin.put_nowait(data)

    async def eof(self) -> None:
        """See Process."""
        self._stdin.put_nowait(None)

    async def signal(self, number: int) -> None:
        """See Process."""
        if not self._task.done():
            self._task.cancel()
            self._said.put_nowait(Exit(signal=number))

    async def resize(self, cols: int, rows: int) -> None:
        """See Process."""
        self._size = (rows, cols)

    async def close(self) -> None:
        """See Process."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _expand(words: list[str], known: Mapping[str, str]) -> list[str]:
    return [_VARIABLE.sub(lambda found: known.get(found[1], ""), word) for word in words]


class FakeGuest:
    """A Guest. Its workload is `run` by the machine."""

    def __init__(self, hostname: str, run: Callable[[Sequence[str]], None]) -> None:
        self.hostname = hostname
        self.env: dict[str, str] = {}
        self.configured = False  # nor had a workload
        self._run = run
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = set()  # that were made empty
        self.mounts: dict[str, str] = {}
        self.address: Address | None = None
        self.seeds: list[bytes] = []
        self.sessions = (0, 0)
        self.listening: set[int] = set()  # ports that echo
        self.session: Tongue | None = None  # of Python
        self.clocks: list[float] = []  # every time that it was told
        self._closed = asyncio.Event()

    def begin(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """It is booted with that, or as if it had been."""
        self.env = dict(env)
        if argv:
            self.configured = True
            self._run(argv)

    def restart(self) -> None:
        """The guest boots anew: connections are lost, files stay."""
        self.session = None
        self._closed.set()
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """See Guest."""
        return self._closed.is_set()

    async def until_ready(self) -> None:
        """See Guest."""

    async def until_closed(self) -> None:
        """See Guest."""
        await self._closed.wait()

    async def ping(self) -> None:
        """See Guest."""

    async def execute(self, ask: Exec) -> FakeProcess:
        """See Guest."""
        return FakeProcess(self, ask)

    async def dial(self, port: int, *, loopback: bool = False) -> FakeProcess:
        """See Guest. What is written comes back from the ports that `listening` names."""
        if port not in self.listening:
            raise Unavailable("Connection refused")
        return FakeProcess(self, Exec(("cat",)))

    async def connect_to(self, path: str) -> SpokenTo:
        """See Guest. The Python session's is the only socket."""
        if self.session is None:
            raise Unavailable("Connection refused")
        return SpokenTo(self.session)

    async def read_file(self, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See Guest."""
        if path not in self.files:
            raise NotFound(f"path: {path} does not exist", field="path")
        yield self.files[path][offset:]

    async def write_file(self, path: str, chunks: AsyncIterator[bytes], *, mode: int) -> None:
        """See Guest."""
        self.files[path] = b"".join([chunk async for chunk in chunks])

    async def stat(self, path: str, *, follow: bool) -> FileStat:
        """See Guest."""
        if path in self.files:
            return FileStat(True, "file", 0o644, len(self.files[path]))
        below = path in self.folders or any(name.startswith(path.rstrip("/") + "/") for name in self.files)
        return FileStat(True, "directory", 0o755) if below or path == "/" else FileStat(False)

    async def list_folder(self, path: str) -> Sequence[tuple[str, FileStat]]:
        """See Guest."""
        start = path.rstrip("/") + "/"
        names = {name[len(start) :].split("/")[0] for name in {*self.files, *self.folders} if name.startswith(start)}
        return [(name, await self.stat(start + name, follow=False)) for name in sorted(names)]

    async def change(self, path: str, how: Change, to: str = "") -> None:
        """See Guest. Modes, owners and times are not kept."""
        there = await self.stat(path, follow=False)
        if how is Change.MKDIR:
            if there.exists:
                raise Invalid(f"{path}: File exists", field="path")
            self.folders.add(path)
        elif not there.exists:
            raise NotFound(f"{path}: No such file or directory", field="path")
        elif how is Change.UNLINK:
            del self.files[path]
        elif how is Change.RMDIR:
            self.folders.discard(path)
        elif how in (Change.RENAME, Change.REPLACE):
            self.files[to] = self.files.pop(path)
        elif how is Change.TRUNCATE:
            self.files[path] = self.files[path][: int(to)].ljust(int(to), b"\0")

    async def real_path(self, path: str) -> str:
        """See Guest."""
        return posixpath.normpath(path)

    async def tar_out(self, path: str) -> AsyncIterator[bytes]:
        """See Guest."""
        yield archive.pack(self.files, path)

    async def tar_in(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """See Guest."""
        self.files |= archive.unpack(b"".join([chunk async for chunk in chunks]), path)

    async def mount(self, serial: str, path: str, *, read_only: bool, overlay: int | None = None) -> None:
        """See Guest."""
        self.mounts[path] = serial

    async def umount(self, path: str) -> None:
        """See Guest."""
        self.mounts.pop(path, None)

    async def sync(self, limit: float) -> None:
        """See Guest."""

    async def grow(self, serial: str) -> None:
        """See Guest."""

    async def set_network(self, address: Address, hostname: str) -> None:
        """See Guest."""
        self.address, self.hostname = address, hostname

    async def set_clock(self, now: float | None = None) -> None:
        """See Guest."""
        self.clocks.append(time.time() if now is None else now)

    async def take_identity(self, identity: Identity) -> None:
        """See Guest. The machine id is a file, as in any guest."""
        if identity.machine_id is not None:
            if re.fullmatch("[0-9a-fA-F]{32}", identity.machine_id) is None:
                raise Invalid("machine_id: malformed", field="machine_id")
            self.files["/etc/machine-id"] = identity.machine_id.encode() + b"\n"
        if identity.seed:
            self.seeds.append(identity.seed)
        self.hostname = identity.hostname or self.hostname
        self.address = identity.address or self.address
        await self.set_clock()

    async def configure(self, config: bytes) -> None:
        """See Guest."""
        told = list(pairs.unpack(config))
        env = [value.split("=", 1) for key, value in told if key == "env"]
        if self.configured:
            raise Busy("the guest has been told what it is for")
        if any(len(pair) != 2 for pair in env):
            raise Invalid("env: malformed", field="env")
        self.configured = True
        self.mounts |= {path: serial for serial, _, path in (v.split(" ", 2) for k, v in told if k == "mount")}
        self.begin([value for key, value in told if key == "arg"], dict(env))

    async def shutdown(self) -> None:
        """See Guest. The fake machine is shut down by its driver."""

    async def close(self) -> None:
        """See Guest."""
        self._closed.set()
