"""Files over a WebSocket, in and out (hypeman.md §1.6): one conversation for each file in, one for a whole tree out.

A tree leaves its guest as one tar stream, which the agent makes and which is taken apart here, entry by entry.
"""

from __future__ import annotations

import io
import logging
import posixpath
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from polyvisor.dialects.hypeman.asks import Ask
from polyvisor.dialects.hypeman.encode import text_of
from polyvisor.dialects.hypeman.sockets import Talk
from polyvisor.dialects.hypeman.untar import Archive, Entry
from polyvisor.dialects.hypeman.validate import reason
from polyvisor.dialects.kit.inbox import Inbox
from polyvisor.dialects.kit.texts import clean
from polyvisor.engine.streams import Guest
from polyvisor.model.faults import Fault, Internal, Invalid, NotFound
from polyvisor.model.guest import Exec, Exit
from polyvisor.model.units import Seconds

log = logging.getLogger("polyvisor.hypeman")
_FRAME = 32 * 1024
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_SMALL = 1024 * 1024
_CHOWN_LIMIT = Seconds(10.0)
_TOP = 0o777  # what the SDK takes as a mode


class CpRequest(Ask):
    """The first message. `src_basename` is for what the other side calls a file; here paths are what they say."""

    direction: Literal["to", "from"]
    guest_path: str
    is_dir: bool = False
    mode: int | None = Field(default=None, ge=0, le=0o7777)
    follow_links: bool = False
    src_basename: str | None = None
    uid: int | None = Field(default=None, ge=0, le=2**32 - 2)
    gid: int | None = Field(default=None, ge=0, le=2**32 - 2)


async def copy(talk: Talk) -> None:
    """Take one file or directory in, or give one out with all that is below it."""
    socket = talk.socket
    try:
        async with Inbox(socket) as inbox:
            try:
                ask = _read(await inbox.get())
                guest = await talk.core.streams.guest(talk.caller.principal, talk.instance.id)
                if ask.direction == "to":
                    written = await inbox.while_open(_take(guest, ask, inbox))
                    await _say(talk, type="result", success=True, **({"bytes_written": written} if written else {}))
                else:
                    await _give(talk, guest, ask)
            except WebSocketDisconnect:
                raise
            except Fault as fault:
                await _say(talk, type="error", message=clean(fault.public))
            except Exception:
                log.exception("cp in %s", talk.instance.id)
                await _say(talk, type="error", message=Internal().public)
        await socket.close()
    except (WebSocketDisconnect, RuntimeError):
        return  # nobody listens any more


async def _say(talk: Talk, **message: Any) -> None:
    await talk.socket.send_text(text_of(message))


def _read(message: Any) -> CpRequest:
    text = message.get("text")
    if text is None:
        raise Invalid("first message must be JSON text")
    try:
        ask = CpRequest.model_validate_json(text)
    except ValidationError as error:
        first: dict[str, Any] = dict(error.errors(include_url=False)[0])
        raise Invalid(f"invalid request: {'.'.join(map(str, first['loc']))}: {reason(first)}") from error
    except (ValueError, RecursionError) as error:
        raise Invalid(f"invalid request: {error}") from error
    if not ask.guest_path.startswith("/") or "\0" in ask.guest_path or len(ask.guest_path) > 4096:
        raise Invalid("guest_path: must be an absolute path")
    return ask


# -- in ------------------------------------------------------------------------------------------------------------


async def _take(guest: Guest, ask: CpRequest, inbox: Inbox) -> int:
    """What was written, in bytes. A directory goes as an archive: so it is made with its owner and mode in one."""
    path = posixpath.normpath(ask.guest_path)
    if ask.is_dir:
        await _end(inbox)
        await guest.tar_in("/", _once(_archived(path, ask)))
        return 0
    mode = _FILE_MODE if ask.mode is None else ask.mode
    stat = await guest.stat(path, follow=True)
    if stat.exists and stat.kind == "directory":
        raise Invalid(f"guest_path: {path} is a directory")
    count = _Count(inbox)
    await guest.write_file(path, count.chunks(), mode=mode)
    if ask.uid and ask.gid:
        await _own(guest, path, ask)
    return count.size


class _Count:
    """A client's bytes, counted."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.size = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Until the message that ends them."""
        while (data := await _next(self._inbox)) is not None:
            self.size += len(data)
            if data:
                yield data


async def _next(inbox: Inbox) -> bytes | None:
    """The next piece; None at the end. :raise Invalid: it is neither."""
    message = await inbox.get()
    data = message.get("bytes")
    if data is not None:
        return bytes(data)
    if message.get("text", "").replace(" ", "") != '{"type":"end"}':
        raise Invalid("a binary message or an end message is wanted")
    return None


async def _end(inbox: Inbox) -> None:
    while await _next(inbox) is not None:
        pass


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _archived(path: str, ask: CpRequest) -> bytes:
    """A directory as an archive of its own."""
    entry = tarfile.TarInfo(path.lstrip("/") or ".")
    entry.type = tarfile.DIRTYPE
    entry.mode = _FOLDER_MODE if ask.mode is None else ask.mode
    if ask.uid and ask.gid:
        entry.uid, entry.gid = ask.uid, ask.gid
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry)
    return out.getvalue()


async def _own(guest: Guest, path: str, ask: CpRequest) -> None:
    """:raise Invalid: the guest cannot give it away."""
    process = await guest.execute(Exec(("chown", f"{ask.uid}:{ask.gid}", path), timeout=_CHOWN_LIMIT))
    try:
        while not isinstance(said := await process.read(), Exit):
            pass
    finally:
        await process.close()
    if said.code != 0:
        raise Invalid(f"uid: the guest cannot make {ask.uid}:{ask.gid} the owner")


# -- out -----------------------------------------------------------------------------------------------------------


async def _give(talk: Talk, guest: Guest, ask: CpRequest) -> None:
    """One entry after the other, each with its end; which one is the last is known when there is no other."""
    path = posixpath.normpath(ask.guest_path)
    stat = await guest.stat(path, follow=True)
    if not stat.exists:
        link = await guest.stat(path, follow=False)
        if not link.exists or ask.follow_links:
            raise NotFound(f"stat {path}: no such file or directory")
        stat = link
    top = await guest.stat(path, follow=ask.follow_links)
    if top.kind == "link":  # by itself, not what it leads to
        entry = Entry(posixpath.basename(path), "2", 0o777, top.uid, top.gid, 0, int(top.mtime), top.target)
        await _header(talk, entry)
        await _say(talk, type="end", final=True)
        return
    await _tree(talk, guest, ask, path)


async def _tree(talk: Talk, guest: Guest, ask: CpRequest, path: str) -> None:
    parent = posixpath.dirname(path)
    archive = Archive(guest.tar_out(path))
    open_entry = False
    while (entry := await archive.next()) is not None:
        if entry.kind not in "0125":
            continue  # a pipe means nothing elsewhere
        if open_entry:
            await _say(talk, type="end", final=False)
        open_entry = True
        here = posixpath.join(parent, entry.name.rstrip("/"))
        if entry.kind == "0":
            await _header(talk, entry)
            await _data(talk, archive.content())
        elif entry.kind == "1" or (entry.kind == "2" and ask.follow_links):
            await _linked(talk, guest, entry, here)
        else:
            await _header(talk, entry)
    if not open_entry:
        raise NotFound(f"stat {path}: nothing that can be copied")
    await _say(talk, type="end", final=True)


async def _linked(talk: Talk, guest: Guest, entry: Entry, path: str) -> None:
    """What a link leads to in the place of the link; a directory without what is in it, as the SDK does it, too."""
    stat = await guest.stat(path, follow=True)
    if stat.kind == "directory":
        await _header(talk, replace(entry, kind="5", mode=stat.mode, mtime=int(stat.mtime)))
        return
    if stat.kind != "file":
        raise NotFound(f"stat {path}: no such file or directory")
    data = b"".join([piece async for piece in guest.read_file(path)]) if stat.size <= _SMALL else None
    size = stat.size if data is None else len(data)
    await _header(talk, replace(entry, kind="0", mode=stat.mode, size=size, mtime=int(stat.mtime)))
    await _data(talk, guest.read_file(path) if data is None else _once(data))


async def _header(talk: Talk, entry: Entry) -> None:
    said: dict[str, Any] = {
        "type": "header", "path": entry.name.rstrip("/"), "mode": entry.mode & _TOP, "is_dir": entry.kind == "5",
        "size": entry.size, "mtime": entry.mtime,
    }  # fmt: skip
    if entry.kind == "2":
        said |= {"is_symlink": True, "link_target": entry.link}
    said |= {key: value for key, value in (("uid", entry.uid), ("gid", entry.gid)) if value}
    await _say(talk, **said)


async def _data(talk: Talk, source: AsyncIterator[bytes]) -> None:
    async for piece in source:
        for start in range(0, len(piece), _FRAME):
            await talk.socket.send_bytes(piece[start : start + _FRAME])
