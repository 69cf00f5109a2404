"""The agent inside a guest, whoever carries it.

Every call raises `Unavailable` when the connection is gone; what was under way in the guest is ended by the agent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from polyvisor.model.guest import Change, Exec, Exit, FileStat, Identity, Output
from polyvisor.model.instance import Address


class Process(Protocol):
    """A command running in a guest. One reader, one writer."""

    async def read(self) -> Output | Exit:
        """The next piece of output; at the end, once, how it ended."""

    async def write(self, data: bytes) -> None:
        """Bytes to its stdin; waits while the guest does not take them. Dropped once it has ended."""

    async def eof(self) -> None:
        """Close its stdin."""

    async def signal(self, number: int) -> None:
        """Send a signal to it and its children."""

    async def resize(self, cols: int, rows: int) -> None:
        """Change its terminal's size; nothing without one."""

    async def close(self) -> None:
        """Done with it: if it still runs it is ended, with its children."""


class Guest(Protocol):
    """What can be asked of a guest."""

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""

    @property
    def sessions(self) -> tuple[int, int]:
        """How many commands and transfers are open, and how many commands were begun so far."""

    async def until_ready(self) -> None:
        """Returns once the guest says it is up. :raise Unavailable: the connection went before."""

    async def until_closed(self) -> None:
        """Returns once the connection is gone."""

    async def ping(self) -> None:
        """There and back."""

    async def execute(self, ask: Exec) -> Process:
        """Start a command. A command that cannot be started ends with 127 or 126 and says why on stderr."""

    async def dial(self, port: int, *, loopback: bool = False) -> Process:
        """A connection to what listens on a TCP port of the guest's own address, or of its `loopback`: what is written
        goes there, what is read comes from there, and its end is an `Exit` that says nothing. Reading raises
        `Unavailable` where nothing listens, and `Unsupported` of an agent that does not know how.
        """

    async def connect_to(self, path: str) -> Process:
        """A connection to what listens on a unix socket in the guest; otherwise as `dial`."""

    def read_file(self, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The file's bytes, from there on. :raise NotFound, Invalid:"""

    async def write_file(self, path: str, chunks: AsyncIterator[bytes], *, mode: int) -> None:
        """Write a file, whole or not at all, making its directories. :raise Invalid: it cannot be written."""

    async def stat(self, path: str, *, follow: bool) -> FileStat:
        """What lies at the path; absence is an answer, not a fault."""

    async def list_folder(self, path: str) -> Sequence[tuple[str, FileStat]]:
        """What a folder holds, in no order; links are not followed. :raise NotFound, Invalid:"""

    async def change(self, path: str, how: Change, to: str = "") -> None:
        """Do that to one name. :raise NotFound, Invalid, Busy, NoCapacity:"""

    async def real_path(self, path: str) -> str:
        """The path without links and dots, of what is there. :raise NotFound, Invalid:"""

    def tar_out(self, path: str) -> AsyncIterator[bytes]:
        """A file or directory as a tar stream."""

    async def tar_in(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Extract a tar stream below a directory. :raise Invalid: naming a member that would land elsewhere."""

    async def mount(self, serial: str, path: str, *, read_only: bool, overlay: int | None = None) -> None:
        """Mount the disk of that serial, waiting a little for it to appear; with `overlay`, below what the guest writes
        to that one of its own disk's. :raise NotFound, Invalid:"""

    async def umount(self, path: str) -> None:
        """Sync and unmount; no mount there is fine. :raise Busy: it is in use."""

    async def sync(self, limit: float) -> None:
        """What was written is on the disks when this returns. :raise TimedOut: not within so many seconds."""

    async def grow(self, serial: str) -> None:
        """Let the mounted file system of the disk of that serial fill it; one that is not mounted is fine."""

    async def set_network(self, address: Address, hostname: str) -> None:
        """Another address and name, at once. :raise Invalid:"""

    async def set_clock(self, now: float | None = None) -> None:
        """Step the guest's clock to `now` (Unix seconds); None: this host's, at the moment of sending.

        A guest restored from memory goes on where its clock stood. :raise Invalid: no such time. :raise TimedOut:
        """

    async def take_identity(self, identity: Identity) -> None:
        """Make a copy of a running guest a machine of its own; returns once nothing of what it answers to is its
        source's, so its network may come up then and not before. The clock is stepped to this host's as well. Where an
        SSH server has keys they are made anew, which may take a minute; the limit is two.

        All is checked before anything is changed; it may be repeated.
        :raise Invalid: a field is malformed. :raise NotFound: there is no network device. :raise TimedOut:
        """

    async def configure(self, config: bytes) -> None:
        """Tell a guest that was booted for nothing, or a copy of one, what it is for: it goes on as if it had been
        booted with `config`, the very bytes that the firmware of such a boot holds. Returns once its volumes are
        mounted; its workload begins then, before anything else that is asked.

        Who it is, its address too, is left to `take_identity`, which comes before. All is checked before anything is
        changed; a volume that cannot be mounted leaves it unconfigured, and it may be repeated.
        :raise Invalid: a field is malformed or unknown, or a volume cannot be mounted. :raise NotFound:
        :raise Busy: it has been configured, or has had a workload. :raise Unsupported: it has a system of its own.
        :raise TimedOut:
        """

    async def shutdown(self) -> None:
        """Ask the workload to end, then power off. Returns at once; the workload may not obey."""

    async def close(self) -> None:
        """Let go of the connection."""
