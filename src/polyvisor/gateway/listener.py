"""Listening for SSH, and the key by which clients know this host."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import asyncssh

from polyvisor.engine import Engine
from polyvisor.gateway.door import Door
from polyvisor.gateway.files import files_of
from polyvisor.gateway.limits import Limits
from polyvisor.gateway.sessions import run_session

HOST_KEY = "ssh_host_ed25519_key"
_LOGIN_LIMIT = 30
_ALIVE_EVERY, _ALIVE_MOST = 30, 4

# What it says at lower levels are names of files and commands, which are their callers' business.
logging.getLogger("asyncssh").setLevel(logging.WARNING)


class Gateway:
    """It listens, and has its connections."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.doors: set[Door] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None

    async def listen(self, engine: Engine, sock: socket.socket, key: asyncssh.SSHKey) -> None:
        """Let clients in from now on."""
        self._acceptor = await asyncssh.listen(
            sock=sock,
            server_factory=lambda: Door(engine, self.doors, self.limits),
            server_host_keys=[key],
            process_factory=run_session,
            sftp_factory=files_of,
            allow_scp=True,
            encoding=None,
            line_editor=False,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            agent_forwarding=False,
            x11_forwarding=False,
            compression_algs=None,
            login_timeout=_LOGIN_LIMIT,
            keepalive_interval=_ALIVE_EVERY,
            keepalive_count_max=_ALIVE_MOST,
            server_version="polyvisor",
        )

    async def close(self) -> None:
        """No more of them; who is connected is cut off."""
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
        doors = list(self.doors)
        for door in doors:
            door.cut()
        await asyncio.gather(*(door.gone() for door in doors))


async def open_gateway(
    engine: Engine, sock: socket.socket, data: Path, limits: Limits, keep: Callable[[Path, str], None]
) -> Gateway:
    """A gateway that listens on `sock`. Its host key is made at the first start, and written by `keep`."""
    path = data / HOST_KEY
    if not path.exists():
        made = asyncssh.generate_private_key("ssh-ed25519", comment="polyvisor")
        keep(path, made.export_private_key().decode())
    gateway = Gateway(limits)
    await gateway.listen(engine, sock, asyncssh.read_private_key(path))
    return gateway
