"""QEMU started by hand: the command line of a machine that the server launched, word for word, over fresh files.

What such a machine takes is the floor under our own figures; what is above it is our tax.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.guest.agent import Agent
from polyvisor.host.paths import AGENT_SOCKET, CONFIG, CONSOLE, JOURNAL, QMP_SOCKET
from polyvisor.host.sockets import listen_unix

DISK = "disk.qcow2"
LIMIT = 60.0
_SET = re.compile(r"fd=(\d+),set=(\d+)")
_SOCKET = re.compile(r"socket,id=([\w-]+),fd=(\d+),")
_FILE = re.compile(r"/proc/self/fd/(\d+)")
_MEMORY = re.compile(r"memory-backend-file,id=ram,size=(\d+)M,mem-path=/proc/self/fd/(\d+),share=on")
_NETWORK = re.compile(r"addr\.str=(\d+)")
_NAMES = {"qmp": QMP_SOCKET, "agent": AGENT_SOCKET, "console": "console.sock"}

Words = list[str]


@dataclass
class HandRun:
    """A hand-run machine whose agent has answered."""

    process: subprocess.Popen[bytes]
    agent: Agent
    seconds: float
    folder: Path


@dataclass(frozen=True)
class Twin:
    """What is needed to launch a machine like the one that was looked at."""

    words: Words
    root: Path
    blank: Path
    kernel: Path
    initrd: Path
    config: bytes
    disk: str
    work: Path

    @classmethod
    def of(cls, pid: int, data: Path, id: str, work: Path) -> Twin:
        """Look at a micro machine of the server on `data`, while it runs."""
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        open_files = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]

        def one(folder: str, start: str = "") -> Path:
            below = [f for f in open_files if f.is_relative_to(data / folder) and f.name.startswith(start)]
            return below[0]

        blank = one("blanks")
        return cls(
            words, one("images"), blank, one("boot", "vmlinux"), one("boot", "initrd"),
            (data / "instances" / id / CONFIG).read_bytes(), str(blank.stat().st_size), work,
        )  # fmt: skip

    async def folder(self, disk: Path | None = None) -> Path:
        """What a launch needs, with an empty disk or a copy of that one."""
        folder = self.work / f"raw-{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        if disk is None:
            await asyncio.to_thread(self._make_disk, folder / DISK)
        else:
            await asyncio.to_thread(shutil.copyfile, disk, folder / DISK)
        (folder / CONFIG).write_bytes(self.config)
        return folder

    @asynccontextmanager
    async def run(self) -> AsyncIterator[HandRun]:
        """Launch, and wait for the agent's first answer; killed at the end."""
        folder = await self.folder()
        begun = time.monotonic()
        process = self.launch(folder)
        try:
            agent = await Agent.connect(folder / AGENT_SOCKET, LIMIT)
            try:
                yield HandRun(process, agent, time.monotonic() - begun, folder)
            finally:
                await agent.close()
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder)

    def _make_disk(self, path: Path) -> None:
        back = ["-F", "raw", "-b", str(self.blank)]
        subprocess.run(
            ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *back, str(path), self.disk], check=True, timeout=30
        )

    def launch(self, folder: Path, incoming: int | None = None, *more: str) -> subprocess.Popen[bytes]:
        """QEMU in that folder; it goes on from what the descriptor `incoming` says, or boots."""
        opened: dict[str, int] = {}
        listeners: list[socket.socket] = []
        words = list(self.words)
        line = [*(self._renumber(word, words, folder, opened, listeners) for word in words), *more]
        if incoming is not None:
            opened["incoming"] = os.dup(incoming)
            line += ["-incoming", f"fd:{opened['incoming']}"]
        try:
            with (folder / "vmm.log").open("wb") as log:
                return subprocess.Popen(
                    line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=tuple(opened.values()),
                    start_new_session=True,
                )  # fmt: skip
        finally:
            for fd in set(opened.values()) - {sock.fileno() for sock in listeners}:
                os.close(fd)
            for sock in listeners:
                sock.close()

    def _renumber(  # every descriptor of the model's command line is a fresh one here
        self, word: str, words: Words, folder: Path, opened: dict[str, int], listeners: list[socket.socket]
    ) -> str:
        if match := _SET.fullmatch(word):
            number, place = match.groups()
            opened[number] = self._open(_user_of(place, words), folder)
            return f"fd={opened[number]},set={place}"
        if match := _SOCKET.match(word):
            name, number = match.groups()
            listeners.append(listen_unix(folder / _NAMES[name]))
            opened[number] = listeners[-1].fileno()
            return word.replace(f"fd={number},", f"fd={opened[number]},")
        if match := _NETWORK.search(word):  # a wire whose other end is held and says nothing
            ends = socket.socketpair()
            listeners.extend(ends)
            opened[match[1]], opened["far end"] = (end.fileno() for end in ends)  # the process holds both
            return word.replace(match[0], f"addr.str={ends[0].fileno()}")
        if match := _MEMORY.match(word):  # in the host's RAM, like that of the model
            opened[match[2]] = os.memfd_create("ram", os.MFD_CLOEXEC)
            os.truncate(opened[match[2]], int(match[1]) << 20)
            return word.replace(f"/proc/self/fd/{match[2]}", f"/proc/self/fd/{opened[match[2]]}")
        if match := _FILE.search(word):
            key = "config" if word.startswith("name=") else words[words.index(word) - 1].lstrip("-")
            opened[match[1]] = self._open(key, folder)
            return word.replace(match[0], f"/proc/self/fd/{opened[match[1]]}")
        return word

    def _open(self, key: str, folder: Path) -> int:
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        path, flags = {
            "console": (folder / CONSOLE, append),
            "journal": (folder / JOURNAL, append),
            "disk-pvroot-file": (self.root, os.O_RDONLY),
            "back-pvdata-file": (self.blank, os.O_RDONLY),
            "disk-pvdata-file": (folder / DISK, os.O_RDWR),
            "kernel": (self.kernel, os.O_RDONLY),
            "initrd": (self.initrd, os.O_RDONLY),
            "config": (folder / CONFIG, os.O_RDONLY),
        }[key]
        return os.open(path, flags, 0o600)


def _user_of(place: str, words: Sequence[str]) -> str:
    """What of the machine opens this fd set."""
    for word in words:
        if word.endswith(f"/dev/fdset/{place}") or f"/dev/fdset/{place}," in word:
            match = re.search(r"(?:node-name|id)=([\w-]+)", word)
            assert match
            return match[1]
    raise AssertionError(f"nobody uses fd set {place}")
