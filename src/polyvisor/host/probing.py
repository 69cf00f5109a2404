"""Health probes: one try, one answer. A workload is asked by its port, or a command in its guest is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

from polyvisor.host.network import rules
from polyvisor.model.faults import Fault
from polyvisor.model.guest import Exec, Exit, Output
from polyvisor.model.health import HealthCheck, Probe
from polyvisor.ports.guest import Guest

_SETTLES = 0.3  # seconds in which a NAT process that took a connection finds out that nobody takes it in the guest
_STATUS_LINE = 1024


async def by_command(guest: Guest, check: HealthCheck) -> str:
    """What is wrong; empty: it ended with 0 in time. :raise Fault: the guest does not run it."""
    process = await guest.execute(Exec(check.argv, cwd=check.cwd or None, timeout=check.timeout))
    said = b""
    try:
        await process.eof()
        while isinstance(found := await process.read(), Output):
            said = (said + found.data)[-4096:]
    finally:
        await process.close()
    assert isinstance(found, Exit)
    if found.timed_out:
        return f"no answer within {check.timeout:g} s"
    if found.code == 0:
        return ""
    how = f"signal {found.signal}" if found.code is None else f"exit code {found.code}"
    return f"{how}: {said.decode(errors='replace').strip()}".removesuffix(": ")


async def by_port(where: tuple[str, int], host: str, check: HealthCheck, *, forwarded: bool) -> str:
    """What is wrong; empty: the port took a connection, and answered as it should. `where` is the address to go to,
    `host` the one to ask for; `forwarded`: by way of somebody who takes a connection before the guest has."""
    tls = None
    if check.tls:
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE  # its name and key are the guest's own business
    sock = None if forwarded else await _marked(where)
    to: dict[str, Any] = {"host": where[0], "port": where[1]} if sock is None else {"sock": sock}
    if tls is not None and sock is not None:
        to["server_hostname"] = host
    reader, writer = await asyncio.open_connection(**to, ssl=tls, limit=_STATUS_LINE)
    try:
        if check.probe is Probe.TCP:
            return await _taken(reader) if forwarded else ""
        name = host if check.port == (443 if check.tls else 80) else f"{host}:{check.port}"
        ask = f"GET {check.path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: polyvisor\r\nConnection: close\r\n\r\n"
        writer.write(ask.encode("ascii"))
        return _judged(await reader.readline(), check.status)
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            writer.transport.abort()


async def _marked(where: tuple[str, int]) -> socket.socket:
    """A connection of which the packet filter knows that it is ours: nobody is awake for being asked how it is."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, rules.OURS)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _taken(reader: asyncio.StreamReader) -> str:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLES):
            if not await reader.read(1):
                return "the port takes no connection"
    return ""


def _judged(line: bytes, status: int) -> str:
    words = line.decode("latin-1").split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        return "no HTTP answer"
    return "" if int(words[1]) == status else f"HTTP status {words[1]}, not {status}"


def words_of(error: BaseException) -> str:
    """What is said of a try that broke off."""
    if isinstance(error, Fault):
        return error.public
    if isinstance(error, ConnectionRefusedError):
        return "the port takes no connection"
    return str(error) or type(error).__name__
