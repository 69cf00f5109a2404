"""One client's connection: who it is, which instance it wants, and what it may open there.

The user name is the instance: its id, its name or what a dialect calls it. Who has no right to it, and who asks for one
that is not there, are told the same, after the same questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import asyncssh

from polyvisor.engine import Engine
from polyvisor.engine.streams import Guest, Process
from polyvisor.gateway.limits import Limits
from polyvisor.gateway.logins import Login, login_of
from polyvisor.model.faults import Fault, Forbidden
from polyvisor.model.ids import InstanceId
from polyvisor.model.principal import Principal

log = logging.getLogger("polyvisor.gateway")
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "")
_CHUNK = 32 * 1024


class Door(asyncssh.SSHServer):
    """See asyncssh.SSHServer; one for each connection."""

    def __init__(self, engine: Engine, doors: set[Door], limits: Limits) -> None:
        self._engine = engine
        self._doors = doors
        self._limits = limits
        self._tries = 0
        self._sessions = 0
        self._source = ""
        self._name = ""
        self._proven: tuple[str, InstanceId] | None = None  # the key's fingerprint, and what it was shown for
        self._let_in = False
        self._login: Login | None = None
        self._connection: asyncssh.SSHServerConnection | None = None
        self._heard = 0.0
        self._watch: asyncio.Task[None] | None = None
        self._noting: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    # -- the connection ----------------------------------------------------------------------------------------

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """See SSHServer."""
        self._connection = conn
        self._source = str((conn.get_extra_info("peername") or ("",))[0])
        conn.set_extra_info(door=self)
        self._doors.add(self)
        strangers = sum(not door._let_in for door in self._doors)
        if strangers > self._limits.strangers or len(self._doors) > self._limits.connections:
            log.warning("ssh: too many connections; one from %s is refused", self._source)
            conn.abort()
        elif self._limits.idle:
            self.heard()
            self._watch = asyncio.create_task(self._close_when_idle(), name="ssh idle")

    def connection_lost(self, exc: Exception | None) -> None:
        """See SSHServer."""
        self._doors.discard(self)
        if self._watch is not None:
            self._watch.cancel()
        if self._tries and not self._let_in:
            log.info("ssh: nobody from %s came in as %r", self._source, self._name[:80])
            self._engine.audit.note_stranger(self._source)
        self._gone.set()

    def heard(self) -> None:
        """Somebody said something."""
        self._heard = asyncio.get_running_loop().time()

    async def _close_when_idle(self) -> None:
        while (left := self._heard + self._limits.idle - asyncio.get_running_loop().time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._gone.wait()
                    return
        self.cut()

    def cut(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.disconnect(asyncssh.DISC_BY_APPLICATION, "closed by the gateway")

    async def gone(self) -> None:
        """Once it is closed, or a moment later by force."""
        try:
            async with asyncio.timeout(2.0):
                await self._gone.wait()
        except TimeoutError:
            if self._connection is not None:
                self._connection.abort()

    # -- who it is ---------------------------------------------------------------------------------------------

    def begin_auth(self, username: str) -> bool:
        """Everybody has to say who he is, whatever he asks for."""
        self._name = username
        return True

    def public_key_auth_supported(self) -> bool:
        """The only way in."""
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether its owner may interact with the instance of that name. asyncssh has him prove that he has the key."""
        self._tries += 1
        if self._tries > self._limits.tries:
            self.cut()
            return False
        fingerprint = key.get_fingerprint()
        try:
            owners = await self._engine.ssh_keys.owners(fingerprint, self._source)
            found = await self._engine.ssh_keys.find(owners, username)
        except Fault as fault:
            log.warning("ssh: %s %s", fault.public, fault.private)
            return False
        if found is None:
            return False
        self._await_proof(key, fingerprint, found[1])
        return True

    def _await_proof(self, key: asyncssh.SSHKey, fingerprint: str, instance: InstanceId) -> None:
        """A client may show one key and sign with another, so nothing is believed but a signature that holds."""
        verify = key.verify

        def verified(data: bytes, sig: bytes) -> bool:
            holds = verify(data, sig)
            if holds:
                self._proven = fingerprint, instance
            return holds

        key.verify = verified  # type: ignore[method-assign]  # asyncssh verifies with this very object

    def auth_completed(self) -> None:
        """He is in, by the key that he proved to have."""
        self._let_in = True
        self._noting = asyncio.create_task(self._note(), name="ssh login")

    async def _note(self) -> None:
        with contextlib.suppress(Fault):
            principal, instance = await self._who()
            self._engine.audit.note(
                principal.name, principal.source, "ssh.login", project=principal.project, subject=instance
            )  # fmt: skip

    async def _who(self) -> tuple[Principal, InstanceId]:
        """Who came in, if he still may. :raise Forbidden:"""
        if self._proven is None:
            raise Forbidden("nobody came in")
        fingerprint, instance = self._proven
        owners = await self._engine.ssh_keys.owners(fingerprint, self._source)
        found = await self._engine.ssh_keys.find(owners, instance)
        if found is None:
            raise Forbidden("the key holds no more here")
        return found

    # -- what it opens -----------------------------------------------------------------------------------------

    async def guest(self) -> Guest:
        """The guest, for one session more: asked for each, since rights may go. :raise Fault:"""
        principal, instance = await self._who()
        return await self._engine.streams.guest(principal, instance)

    async def login(self, guest: Guest) -> Login:
        """Who he is in there, asked for once in a connection. :raise Fault:"""
        if self._login is None:
            self._login = await login_of(guest, self._limits.user)
        return self._login

    def enter(self) -> bool:
        """A session begins; False: there are too many."""
        self.heard()
        self._sessions += 1
        return self._sessions <= self._limits.sessions

    def leave(self) -> None:
        """It is over."""
        self.heard()
        self._sessions -= 1

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Callable[[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]], Awaitable[None]]:
        """A port of the guest's own; the gateway is no way to anywhere else."""
        if dest_host not in _LOOPBACK:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "only the VM's own ports")

        async def join(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
            try:
                if self.enter():
                    guest = await self.guest()
                    await _join(await guest.dial(dest_port, loopback=True), reader, writer, self)
            except Fault as fault:
                log.info("ssh: port %d of a guest: %s", dest_port, fault.public)
            finally:
                self.leave()
                writer.close()

        return join


async def _join(
    link: Process, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes], door: Door
) -> None:
    async def inward() -> None:
        while data := await reader.read(_CHUNK):
            door.heard()
            await link.write(data)
        await link.eof()

    feeding = asyncio.create_task(inward())
    try:
        while hasattr(said := await link.read(), "data"):
            door.heard()
            writer.write(said.data)
            await writer.drain()
    except (BrokenPipeError, ConnectionError, asyncssh.Error):
        pass  # the client has left
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await link.close()
