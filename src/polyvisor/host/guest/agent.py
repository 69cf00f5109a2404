"""One connection to the agent inside a guest.

We speak first: HELLO with a nonce. What arrives before the answer with that nonce is the rest of an earlier
manager's talk and is dropped; the agent ends whatever that one had under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from polyvisor.host.guest import pairs
from polyvisor.host.guest.channel import Channel
from polyvisor.host.guest.frames import DELIMITER, MOST, PROTOCOL, Decoder, Frame, Kind, encode
from polyvisor.host.sockets import connect_unix
from polyvisor.model.faults import Invalid, TimedOut, Unavailable, Unsupported
from polyvisor.model.guest import Change, Exec, Exit, FileStat, Identity
from polyvisor.model.instance import Address
from polyvisor.model.units import Seconds

_NOBODY = bytes(16)
_PING_LIMIT = 5.0
_READY_LIMIT = 30.0
_SILENCE = 5.0  # seconds after which a connection has to prove itself before it is used
_VERB_LIMIT = 60.0
_MOST_SAID = 64 * 1024 * 1024
_CLOCK_LIMIT = 10.0
_IDENTITY_LIMIT = 120.0  # an RSA key is half a minute's work for an emulated processor that is shared


class Agent(asyncio.Protocol):
    """A Guest over one unix socket."""

    def __init__(self) -> None:
        self._nonce = secrets.token_bytes(16)
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._channels: dict[int, Channel] = {}
        self._numbers = itertools.count(1)
        self._greeted = asyncio.Event()
        self._ready = asyncio.Event()
        self._closed = asyncio.Event()
        self._pongs: dict[bytes, asyncio.Future[None]] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._heard = 0.0
        self._begun = 0

    @classmethod
    async def connect(cls, path: Path, limit: float) -> Agent:
        """:raise OSError: nobody listens. :raise Unavailable: no agent answers within `limit` seconds."""
        sock = connect_unix(path)
        _, agent = await asyncio.get_running_loop().create_unix_connection(cls, sock=sock)
        try:
            async with asyncio.timeout(limit):
                await agent._until(agent._greeted)
        except TimeoutError as error:
            await agent.close()
            raise Unavailable("no agent answers in the instance") from error
        except BaseException:
            await agent.close()
            raise
        return agent

    # -- the connection ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Speak first."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(DELIMITER)
        self._greet()

    def data_received(self, data: bytes) -> None:
        """Frames go to their channels."""
        self._heard = asyncio.get_running_loop().time()
        for frame in self._decoder.feed(data):
            if frame.kind == Kind.HELLO:
                self._on_hello(frame.payload[4:20])
            elif self._greeted.is_set():
                self._take(frame)

    def _on_hello(self, nonce: bytes) -> None:
        """The answer to ours; or, with an empty nonce, an agent that has just begun and knows nothing of us."""
        if nonce == self._nonce:
            self._greeted.set()
        elif nonce == _NOBODY and self._greeted.is_set():
            assert self._transport is not None
            self._transport.abort()  # the guest was reset: what was under way is over
        elif nonce == _NOBODY:
            self._greet()

    def _greet(self) -> None:
        self._send(Frame(Kind.HELLO, payload=PROTOCOL.to_bytes(4, "little") + self._nonce))

    def _take(self, frame: Frame) -> None:
        if frame.channel:
            channel = self._channels.get(frame.channel)
            if channel is not None:
                channel.take(frame)
        elif frame.kind == Kind.READY:
            self._ready.set()
        elif frame.kind == Kind.PONG and (waiting := self._pongs.pop(frame.payload, None)):
            waiting.set_result(None)

    def pause_writing(self) -> None:
        """The socket is full."""
        self._room.clear()

    def resume_writing(self) -> None:
        """It is no longer."""
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits is told."""
        self._closed.set()
        self._room.set()
        for channel in self._channels.values():
            channel.lose()
        for waiting in self._pongs.values():
            waiting.cancel()

    def _send(self, frame: Frame) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(frame))

    def _drained(self) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._wait_for_room())

    async def _wait_for_room(self) -> None:
        await self._room.wait()

    async def _until(self, event: asyncio.Event) -> None:
        """:raise Unavailable: the connection went first."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._closed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not event.is_set():
            raise Unavailable("the connection to the guest's agent is gone")

    @property
    def closed(self) -> bool:
        """See Guest."""
        return self._closed.is_set()

    @property
    def sessions(self) -> tuple[int, int]:
        """See Guest."""
        return len(self._channels), self._begun

    async def until_ready(self) -> None:
        """See Guest. An agent that never says so is talked to anew."""
        try:
            async with asyncio.timeout(_READY_LIMIT):
                await self._until(self._ready)
        except TimeoutError as error:
            await self.close()
            raise Unavailable("the agent does not say that it is ready") from error

    async def is_there(self) -> bool:
        """Whether the agent still listens. One that said nothing for a while is asked, and left if it does not answer;
        not while anything is under way, which would be lost with the connection."""
        if self.closed:
            return False
        if not self._channels and asyncio.get_running_loop().time() - self._heard > _SILENCE:
            try:
                await self.ping()
            except (TimedOut, Unavailable):
                await self.close()
                return False
        return True

    async def until_closed(self) -> None:
        """See Guest."""
        await self._closed.wait()

    async def close(self) -> None:
        """See Guest."""
        if self._transport is not None:
            self._transport.abort()
            await self._closed.wait()

    async def ping(self) -> None:
        """See Guest. :raise TimedOut:"""
        if self.closed:
            raise Unavailable("the connection to the guest's agent is gone")
        token = secrets.token_bytes(8)
        waiting = self._pongs[token] = asyncio.get_running_loop().create_future()
        self._send(Frame(Kind.PING, payload=token))
        try:
            async with asyncio.timeout(_PING_LIMIT):
                await waiting
        except TimeoutError as error:
            raise TimedOut("the guest's agent does not answer") from error
        except asyncio.CancelledError:
            if self.closed:
                raise Unavailable("the connection to the guest's agent is gone") from None
            raise
        finally:
            self._pongs.pop(token, None)

    # -- channels ----------------------------------------------------------------------------------------------

    def _open(self, request: bytes) -> Channel:
        if self.closed:
            raise Unavailable("the connection to the guest's agent is gone")
        channel = Channel(next(self._numbers), self._send, self._drained)
        self._channels[channel.number] = channel
        self._send(Frame(Kind.OPEN, channel.number, request))
        return channel

    @asynccontextmanager
    async def _opened(self, request: bytes) -> AsyncIterator[Channel]:
        channel = self._open(request)
        try:
            yield channel
        finally:
            await self._done_with(channel)

    async def _done_with(self, channel: Channel) -> None:
        await channel.close()
        self._channels.pop(channel.number, None)

    async def _ask(self, verb: str, limit: float = _VERB_LIMIT, /, **options: str) -> dict[str, str]:
        return await self._answer(_request(verb, **options), limit)

    async def _answer(self, request: bytes, limit: float) -> dict[str, str]:
        async with self._opened(request) as channel:
            try:
                async with asyncio.timeout(limit):
                    return await channel.finished()
            except TimeoutError as error:
                raise TimedOut("the guest's agent does not answer") from error

    # -- commands ----------------------------------------------------------------------------------------------

    async def execute(self, ask: Exec) -> Command:
        """See Guest."""
        request = [("verb", "exec"), *(("arg", word) for word in ask.argv)]
        request += [("env", f"{name}={value}") for name, value in ask.env.items()]
        request += [("cwd", ask.cwd or ""), ("user", ask.user or "")]
        if ask.tty:
            request += [("tty", "1"), ("cols", str(ask.cols)), ("rows", str(ask.rows))]
        if ask.timeout is not None:
            request.append(("timeout_ms", str(max(1, round(ask.timeout * 1000)))))
        self._begun += 1
        return Command(self, self._open(pairs.pack(request)))

    async def dial(self, port: int, *, loopback: bool = False) -> Command:
        """See Guest."""
        self._begun += 1
        where = {"loopback": "1"} if loopback else {}
        return Command(self, self._open(_request("dial", port=str(port), **where)))

    async def connect_to(self, path: str) -> Command:
        """See Guest."""
        self._begun += 1
        return Command(self, self._open(_request("connect", path=path)))

    async def shutdown(self) -> None:
        """See Guest."""
        with contextlib.suppress(Unavailable):  # it may be gone before it has answered
            await self._ask("shutdown")

    # -- files -------------------------------------------------------------------------------------------------

    async def read_file(self, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See Guest."""
        where = {"offset": str(offset)} if offset else {}
        async with self._opened(_request("read", path=path, **where)) as channel:
            while (said := await channel.output()) is not None:
                yield said.data
            channel.check()

    async def write_file(self, path: str, chunks: AsyncIterator[bytes], *, mode: int) -> None:
        """See Guest."""
        async with self._opened(_request("write", path=path, mode=f"{mode:o}")) as channel:
            await _pour(channel, chunks)

    async def stat(self, path: str, *, follow: bool) -> FileStat:
        """See Guest."""
        found = await self._ask("stat", path=path, follow="1" if follow else "0")
        return _stat(found) if "kind" in found else FileStat(False)

    async def list_folder(self, path: str) -> Sequence[tuple[str, FileStat]]:
        """See Guest."""
        entries: list[dict[str, str]] = []
        for key, value in pairs.unpack(await self._said(_request("list", path=path))):
            if key == "name":
                entries.append({})
            if entries:
                entries[-1][key] = value
        return [(entry["name"], _stat(entry)) for entry in entries]

    async def change(self, path: str, how: Change, to: str = "") -> None:
        """See Guest."""
        await self._ask("change", path=path, how=how.value, to=to)

    async def real_path(self, path: str) -> str:
        """See Guest."""
        return (await self._said(_request("real", path=path))).decode("utf-8", "replace")

    async def _said(self, request: bytes) -> bytes:
        """All that a verb has to say. :raise Invalid: more than there is room for."""
        said = bytearray()
        async with self._opened(request) as channel:
            while (piece := await channel.output()) is not None:
                said += piece.data
                if len(said) > _MOST_SAID:
                    raise Invalid("path: holds too much to be told of", field="path")
            channel.check()
        return bytes(said)

    async def tar_out(self, path: str) -> AsyncIterator[bytes]:
        """See Guest."""
        async with self._opened(_request("tar", path=path)) as channel:
            while (said := await channel.output()) is not None:
                yield said.data
            channel.check()

    async def tar_in(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """See Guest."""
        async with self._opened(_request("untar", path=path)) as channel:
            await _pour(channel, chunks)

    # -- disks and network -------------------------------------------------------------------------------------

    async def mount(self, serial: str, path: str, *, read_only: bool, overlay: int | None = None) -> None:
        """See Guest."""
        above = {} if overlay is None else {"overlay": str(overlay)}
        await self._ask("mount", serial=serial, path=path, read_only="1" if read_only else "0", **above)

    async def umount(self, path: str) -> None:
        """See Guest."""
        await self._ask("umount", path=path)

    async def sync(self, limit: float) -> None:
        """See Guest. An agent that was booted before this verb was known has the guest's own program do it."""
        try:
            await self._ask("sync", limit)
        except Unsupported:
            command = await self.execute(Exec(("sync",), timeout=Seconds(limit)))
            try:
                while not isinstance(await command.read(), Exit):
                    pass
            finally:
                await command.close()

    async def grow(self, serial: str) -> None:
        """See Guest."""
        await self._ask("grow", serial=serial)

    async def set_network(self, address: Address, hostname: str) -> None:
        """See Guest."""
        await self._ask("network", **dict(network_pairs(address)), hostname=hostname)

    # -- after a restore from memory ---------------------------------------------------------------------------

    async def set_clock(self, now: float | None = None) -> None:
        """See Guest."""
        now_ns = time.time_ns() if now is None else round(now * 1e9)
        await self._ask("clock", _CLOCK_LIMIT, now_ns=str(now_ns))

    async def take_identity(self, identity: Identity) -> None:
        """See Guest."""
        told = {"hostname": identity.hostname, "machine_id": identity.machine_id, "seed": identity.seed.hex()}
        fields = {name: value for name, value in told.items() if value}
        if identity.address is not None:
            fields |= {"mac": identity.address.mac, **dict(network_pairs(identity.address))}
        await self._ask("identity", _IDENTITY_LIMIT, now_ns=str(time.time_ns()), **fields)

    async def configure(self, config: bytes) -> None:
        """See Guest."""
        request = _request("configure") + config
        if len(request) > MOST:
            raise Invalid("the settings are too long", field="env")
        await self._answer(request, _VERB_LIMIT)


class Command:
    """A Process: a channel that is forgotten with its last word."""

    def __init__(self, agent: Agent, channel: Channel) -> None:
        self._agent = agent
        self._channel = channel
        self.read = channel.read
        self.write = channel.write
        self.eof = channel.eof
        self.signal = channel.signal
        self.resize = channel.resize

    async def close(self) -> None:
        """See Process."""
        await self._agent._done_with(self._channel)


def _stat(found: Mapping[str, str]) -> FileStat:
    return FileStat(
        True, found["kind"], int(found["mode"]), int(found["size"]), float(found["mtime"]), int(found["uid"]),
        int(found["gid"]), found.get("target", ""),
    )  # fmt: skip


def _request(verb: str, **options: str) -> bytes:
    return pairs.pack([("verb", verb), *options.items()])


def network_pairs(address: Address) -> list[tuple[str, str]]:
    """An address as the agent is told it, at boot or later."""
    return [("address", f"{address.ip}/{address.prefix}"), ("gateway", address.gateway), ("dns", address.dns)]


async def _pour(channel: Channel, chunks: AsyncIterator[bytes]) -> None:
    """Everything into a verb's input, then its verdict; a verdict that comes early ends the pouring."""
    async for chunk in chunks:
        if channel.over:
            break
        await channel.write(chunk)
    await channel.eof()
    await channel.finished()
