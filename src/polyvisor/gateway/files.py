"""Files of a guest for SFTP and SCP, by its agent: the guest needs no program for it. All is done as root; what is made
belongs to who came in.

asyncssh's own server is one of this host's files, so every verb of it is answered here, or refused: a test holds the
two lists together.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NoReturn

import asyncssh
from asyncssh import SFTPAttrs, SFTPName

from polyvisor.engine.streams import Guest
from polyvisor.gateway.door import Door
from polyvisor.gateway.logins import Login
from polyvisor.gateway.openings import Reading, Writing
from polyvisor.model.faults import Fault, Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, Unsupported
from polyvisor.model.guest import Change, FileStat

_KINDS = {
    "file": (asyncssh.FILEXFER_TYPE_REGULAR, stat.S_IFREG),
    "directory": (asyncssh.FILEXFER_TYPE_DIRECTORY, stat.S_IFDIR),
    "link": (asyncssh.FILEXFER_TYPE_SYMLINK, stat.S_IFLNK),
    "character": (asyncssh.FILEXFER_TYPE_CHAR_DEVICE, stat.S_IFCHR),
    "block": (asyncssh.FILEXFER_TYPE_BLOCK_DEVICE, stat.S_IFBLK),
    "fifo": (asyncssh.FILEXFER_TYPE_FIFO, stat.S_IFIFO),
    "socket": (asyncssh.FILEXFER_TYPE_SOCKET, stat.S_IFSOCK),
}
_ERRORS: tuple[tuple[type[Fault], Callable[[str], asyncssh.SFTPError]], ...] = (
    (NotFound, asyncssh.SFTPNoSuchFile),
    (Unsupported, asyncssh.SFTPOpUnsupported),
    (Unauthenticated, asyncssh.SFTPPermissionDenied),
    (Forbidden, asyncssh.SFTPPermissionDenied),
    (Unavailable, asyncssh.SFTPConnectionLost),
)
_FAILURE: Callable[[str], asyncssh.SFTPError] = asyncssh.SFTPFailure
_HOMES = ("/root", "/")
_OPEN_MOST = 64


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A fault in the client's words."""
    try:
        yield
    except Fault as fault:
        raise next((error for kind, error in _ERRORS if isinstance(fault, kind)), _FAILURE)(fault.public) from fault


def _unsupported() -> NoReturn:
    raise asyncssh.SFTPOpUnsupported("not by this gateway")


def files_of(chan: asyncssh.SSHServerChannel[bytes]) -> GuestFiles:
    """What asyncssh calls for each session of SFTP or SCP."""
    return GuestFiles(chan, chan.get_connection().get_extra_info("door"))


class GuestFiles(asyncssh.SFTPServer):
    """See asyncssh.SFTPServer."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], door: Door) -> None:
        super().__init__(chan)
        self._door = door
        self._entered = door.enter()
        self._guest: Guest | None = None
        self._home = ""
        self._login = Login()
        self._open: set[Reading | Writing] = set()
        self._turn = asyncio.Lock()

    async def _ready(self) -> Guest:
        """The guest, asked for once in a session. :raise Fault:"""
        async with self._turn:
            if not self._entered:
                raise Invalid("too many sessions on one connection")
            if self._guest is None:
                guest = await self._door.guest()
                self._login = await self._door.login(guest)
                for home in filter(None, (self._login.home, *_HOMES)):
                    if not self._home and (await guest.stat(home, follow=True)).exists:
                        self._home = home
                self._guest = guest
        self._door.heard()
        return self._guest

    def _path(self, path: bytes) -> str:
        """:raise Invalid: a guest would not understand it."""
        try:
            text = path.decode()
        except UnicodeDecodeError as error:
            raise Invalid("path: is not valid UTF-8") from error
        if "\0" in text or len(text) > 4096:
            raise Invalid("path: is no path")
        return posixpath.join(self._home, text) if self._home else text

    async def _at(self, path: bytes) -> tuple[Guest, str]:
        guest = await self._ready()
        return guest, self._path(path)

    # -- what is there -----------------------------------------------------------------------------------------

    async def stat(self, path: bytes) -> SFTPAttrs:
        """See SFTPServer."""
        return await self._stat(path, follow=True)

    async def lstat(self, path: bytes) -> SFTPAttrs:
        """See SFTPServer."""
        return await self._stat(path, follow=False)

    async def _stat(self, path: bytes, *, follow: bool) -> SFTPAttrs:
        with told():
            guest, where = await self._at(path)
            found = await guest.stat(where, follow=follow)
            if not found.exists:
                raise NotFound(f"{where}: no such file")
            return _attrs(found)

    async def fstat(self, file_obj: object) -> SFTPAttrs:
        """See SFTPServer."""
        with told():
            opened = _opened(file_obj)
            found = await opened.guest.stat(opened.path, follow=True)
            return _attrs(found) if found.exists else SFTPAttrs(size=opened.position, permissions=stat.S_IFREG | 0o644)

    async def scandir(self, path: bytes) -> AsyncIterator[SFTPName]:
        """See SFTPServer."""
        with told():
            guest, where = await self._at(path)
            found = await guest.list_folder(where)
            own = await guest.stat(where, follow=True)
        for name in (b".", b".."):
            yield SFTPName(name, attrs=_attrs(own))
        for text, entry in sorted(found):
            yield SFTPName(text.encode("utf-8", "surrogateescape"), attrs=_attrs(entry))

    async def realpath(self, path: bytes) -> bytes:
        """See SFTPServer. What is not there is made sense of by its letters."""
        with told():
            guest, where = await self._at(path)
            try:
                return (await guest.real_path(where)).encode()
            except (NotFound, Invalid):
                return posixpath.normpath(where).encode()

    async def readlink(self, path: bytes) -> bytes:
        """See SFTPServer."""
        with told():
            guest, where = await self._at(path)
            found = await guest.stat(where, follow=False)
            if found.kind != "link":
                raise NotFound(f"{where}: no such link")
            return found.target.encode()

    def format_user(self, uid: int | None) -> str:
        """See SFTPServer. The names of this host's users are none of the guest's."""
        return "" if uid is None else str(uid)

    def format_group(self, gid: int | None) -> str:
        """See SFTPServer."""
        return "" if gid is None else str(gid)

    # -- reading and writing -----------------------------------------------------------------------------------

    async def open(self, path: bytes, pflags: int, attrs: SFTPAttrs) -> object:
        """See SFTPServer. A file is read, or written from its beginning to its end."""
        with told():
            guest, where = await self._at(path)
            if len(self._open) >= _OPEN_MOST:
                raise Invalid("too many open files")
            found = await guest.stat(where, follow=True)
            opened: Reading | Writing
            if pflags & asyncssh.FXF_WRITE:
                _check_writing(pflags, found, where)
                mode = attrs.permissions if attrs.permissions is not None else found.mode if found.exists else 0o644
                owner = (found.uid, found.gid) if found.exists else self._login.owner
                opened = Writing(guest, where, mode & 0o7777, owner, 0 if pflags & asyncssh.FXF_TRUNC else found.size)
            else:
                if not found.exists:
                    raise NotFound(f"{where}: no such file")
                if found.kind != "file":
                    raise Invalid(f"{where}: is a {found.kind}")
                opened = Reading(guest, where)
            self._open.add(opened)
            return opened

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        """See SFTPServer."""
        self._door.heard()
        with told():
            opened = _opened(file_obj)
            if not isinstance(opened, Reading):
                raise Invalid("the file is not open for reading")
            return await opened.read(offset, size)

    async def write(self, file_obj: object, offset: int, data: bytes) -> int:
        """See SFTPServer."""
        self._door.heard()
        with told():
            opened = _opened(file_obj)
            if not isinstance(opened, Writing):
                raise Invalid("the file is not open for writing")
            await opened.write(offset, data)
            return len(data)

    async def close(self, file_obj: object) -> None:
        """See SFTPServer."""
        with told():
            opened = _opened(file_obj)
            self._open.discard(opened)
            later = await opened.close()
            if later is not None:
                await _set(opened.guest, opened.path, later)

    async def exit(self) -> None:
        """See SFTPServer. What was not closed has never been written."""
        for opened in list(self._open):
            await opened.drop()
        self._open.clear()
        self._door.leave()
        if (
            self.channel.get_subsystem()
        ):  # asyncssh tells how SCP ended; without such a word scp(1) takes SFTP for failed
            self.channel.exit(0)

    async def fsync(self, file_obj: object) -> None:
        """See SFTPServer. It is whole once it is closed."""

    # -- changes -----------------------------------------------------------------------------------------------

    async def setstat(self, path: bytes, attrs: SFTPAttrs) -> None:
        """See SFTPServer."""
        with told():
            guest, where = await self._at(path)
            await _set(guest, where, attrs)

    async def lsetstat(self, path: bytes, attrs: SFTPAttrs) -> None:
        """See SFTPServer."""
        with told():
            guest, where = await self._at(path)
            if (await guest.stat(where, follow=False)).kind == "link":
                raise Unsupported("a link's own attributes stay as they are")
            await _set(guest, where, attrs)

    async def fsetstat(self, file_obj: object, attrs: SFTPAttrs) -> None:
        """See SFTPServer. Of what is being written they are set once it is closed."""
        with told():
            opened = _opened(file_obj)
            if isinstance(opened, Writing):
                opened.later = attrs
            else:
                await _set(opened.guest, opened.path, attrs)

    async def _change(self, path: bytes, how: Change, to: str = "") -> None:
        with told():
            guest, where = await self._at(path)
            await guest.change(where, how, to)

    async def remove(self, path: bytes) -> None:
        """See SFTPServer."""
        await self._change(path, Change.UNLINK)

    async def mkdir(self, path: bytes, attrs: SFTPAttrs) -> None:
        """See SFTPServer."""
        mode = 0o755 if attrs.permissions is None else attrs.permissions & 0o7777
        await self._change(path, Change.MKDIR, f"{mode:o}")
        if self._login.user is not None:
            await self._change(path, Change.CHOWN, "{}:{}".format(*self._login.owner))

    async def rmdir(self, path: bytes) -> None:
        """See SFTPServer."""
        await self._change(path, Change.RMDIR)

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        """See SFTPServer."""
        with told():
            _, to = await self._at(newpath)
        await self._change(oldpath, Change.RENAME, to)

    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        """See SFTPServer."""
        with told():
            _, to = await self._at(newpath)
        await self._change(oldpath, Change.REPLACE, to)

    async def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        """See SFTPServer."""
        with told():
            try:
                target = oldpath.decode()
            except UnicodeDecodeError as error:
                raise Invalid("path: is not valid UTF-8") from error
        await self._change(newpath, Change.SYMLINK, target)

    # -- refused -----------------------------------------------------------------------------------------------

    def map_path(self, path: bytes) -> NoReturn:
        """To a path of this host: there is none."""
        _unsupported()

    def reverse_map_path(self, path: bytes) -> NoReturn:
        """As above."""
        _unsupported()

    def open56(self, path: bytes, desired_access: int, flags: int, attrs: SFTPAttrs) -> NoReturn:
        """Of later versions of the protocol."""
        _unsupported()

    def lock(self, file_obj: object, offset: int, length: int, flags: int) -> NoReturn:
        """As above."""
        _unsupported()

    def unlock(self, file_obj: object, offset: int, length: int) -> NoReturn:
        """As above."""
        _unsupported()

    def link(self, oldpath: bytes, newpath: bytes) -> NoReturn:
        """Hard links."""
        _unsupported()

    def statvfs(self, path: bytes) -> NoReturn:
        """Free space."""
        _unsupported()

    def fstatvfs(self, file_obj: object) -> NoReturn:
        """As above."""
        _unsupported()


def _opened(file_obj: object) -> Reading | Writing:
    assert isinstance(file_obj, Reading | Writing)  # asyncssh hands back what it was given
    return file_obj


def _check_writing(pflags: int, found: FileStat, path: str) -> None:
    """:raise Fault: what the agent does not do, or the client does not want."""
    if found.exists and found.kind != "file":
        raise Invalid(f"{path}: is a {found.kind}")
    if found.exists and pflags & asyncssh.FXF_EXCL:
        raise Invalid(f"{path}: exists")
    if not found.exists and not pflags & asyncssh.FXF_CREAT:
        raise NotFound(f"{path}: no such file")
    if pflags & asyncssh.FXF_READ:
        raise Unsupported("a file is read or written, and not both at once")


async def _set(guest: Guest, path: str, attrs: SFTPAttrs) -> None:
    if attrs.size is not None:
        await guest.change(path, Change.TRUNCATE, str(attrs.size))
    if attrs.permissions is not None:
        await guest.change(path, Change.CHMOD, f"{attrs.permissions & 0o7777:o}")
    if attrs.uid is not None and attrs.gid is not None:
        await guest.change(path, Change.CHOWN, f"{attrs.uid}:{attrs.gid}")
    if attrs.mtime is not None:
        accessed = attrs.mtime if attrs.atime is None else attrs.atime
        await guest.change(path, Change.UTIME, f"{int(accessed)}:{int(attrs.mtime)}")


def _attrs(found: FileStat) -> SFTPAttrs:
    kind, bits = _KINDS[found.kind]
    given: dict[str, Any] = {"type": kind, "permissions": bits | found.mode, "size": found.size}
    moment = int(found.mtime)
    return SFTPAttrs(uid=found.uid, gid=found.gid, atime=moment, mtime=moment, nlink=1, **given)
