"""Files in volumes: in the volume itself while nobody has it, through its guest while one runs with it (ADR 48)."""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.media import volume_disk
from polyvisor.engine.streams import StreamsEngine
from polyvisor.engine.volumes import VolumesEngine
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, Invalid, NoCapacity, NotFound
from polyvisor.model.guest import Exec
from polyvisor.model.principal import Action, Principal
from polyvisor.model.units import MIB, Bytes, Seconds
from polyvisor.model.volume import DATA, Volume, VolumeFile, VolumeState, file_path
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store
from polyvisor.ports.volumes import VolumeFiles

_LIMIT = Seconds(60.0)
_FIND = """cd "$1" || exit 3; find . -xdev $2 ! -name . ! -name lost+found -exec stat -c '%F/%s/%n' {} +"""
_SHALLOW = "-maxdepth 1"


class FilesEngine:
    """List, read, write, remove."""

    def __init__(
        self, store: Store, host: Host, instances: InstancesEngine, streams: StreamsEngine, volumes: VolumesEngine
    ) -> None:
        self._store = store
        self._host = host
        self._instances = instances
        self._streams = streams
        self._volumes = volumes

    async def list(
        self, principal: Principal, key: str, folder: str = "", *, deep: bool = False, most: int = 1000
    ) -> Sequence[VolumeFile]:
        """What is in a directory, and below it; as many as that.

        :raise NotFound: :raise Busy: more than one machine has it, or one that does not run.
        """
        async with self._found(principal, key, Action.VOLUME_USE) as files:
            return await files.list(folder, deep=deep, most=most)

    async def read(self, principal: Principal, key: str, path: str, most: int) -> bytes:
        """A file. :raise NotFound: :raise Invalid: it is larger than `most` bytes. :raise Busy: as for `list`."""
        async with self._found(principal, key, Action.VOLUME_USE) as files:
            return await files.read(path, most)

    async def write(self, principal: Principal, key: str, path: str, source: Path, *, over: bool = True) -> None:
        """What is in a file of ours, as a file there; `over` another one, if need be.

        :raise NoCapacity: it does not fit. :raise Invalid, NotFound: :raise Busy: as for `list`.
        """
        async with self._found(principal, key, Action.VOLUME_ALTER) as files:
            if not over and await _is_there(files, path):
                raise Invalid(f"path: there is a file {path[:200]} already", field="path")
            await files.write(path, source)

    async def remove(self, principal: Principal, key: str, path: str) -> None:
        """A file, or a directory that is empty. :raise NotFound: :raise Invalid: :raise Busy: as for `list`."""
        async with self._found(principal, key, Action.VOLUME_ALTER) as files:
            await files.remove(path)

    async def used(self, principal: Principal, key: str) -> Bytes:
        """What files take of its room. :raise NotFound: :raise Busy: as for `list`."""
        async with self._found(principal, key, Action.VOLUME_VIEW) as files:
            return await files.used()

    @asynccontextmanager
    async def _found(self, principal: Principal, key: str, action: Action) -> AsyncIterator[VolumeFiles]:
        async with self._store.read() as unit:
            volume = await self._volumes.find(unit, principal, key, action)
        if volume.state is not VolumeState.READY or volume.kind != DATA:
            raise Busy(f"volume {volume.name} has no files now", field="volume", subject=volume.id)
        if volume.attached:
            yield await self._inside(principal, volume)
            return
        async with self._host.volumes.files(volume_disk(volume)) as files:
            async with self._store.read() as unit:  # nobody has come to it while it was waited for
                if (await unit.volumes.get(volume.id)).attached:
                    raise Busy(f"volume {volume.name} is being attached", field="volume", subject=volume.id)
            yield files

    async def _inside(self, principal: Principal, volume: Volume) -> VolumeFiles:
        """Through the guest of the machine that has it. :raise Busy:"""
        in_use = Busy(f"volume {volume.name} is in use by a machine that does not run", subject=volume.id)
        for holder in volume.attached:
            instance = await self._instances.get(principal, holder, Action.INSTANCE_INTERACT)
            mount = next((one for one in instance.mounts if one.volume == volume.id), None)
            if mount is not None and mount.path and face(instance) is Face.RUNNING and instance.observed.ready:
                return GuestFiles(self._streams, principal, instance.id, mount.path)
        raise in_use


async def _is_there(files: VolumeFiles, path: str) -> bool:
    path = file_path(path)
    try:
        found = await files.list(posixpath.dirname(path), deep=False, most=1_000_000)
    except NotFound:
        return False
    return any(one.path == path for one in found)


class GuestFiles:
    """See ports.volumes.VolumeFiles: those below a directory of a guest's, whose word is taken for all of it."""

    def __init__(self, streams: StreamsEngine, principal: Principal, instance: str, root: str) -> None:
        self._streams = streams
        self._principal = principal
        self._instance = instance
        self._root = root.rstrip("/")

    def _place(self, path: str) -> str:
        return self._root + file_path(path)

    async def _sh(self, script: str, *words: str) -> tuple[int, str]:
        ask = Exec(("sh", "-c", script, "sh", *words), timeout=_LIMIT)
        ended, out, _ = await self._streams.run(self._principal, self._instance, ask)
        return ended.code if ended.code is not None else -1, out.decode("utf-8", "replace")

    async def list(self, folder: str, *, deep: bool, most: int) -> Sequence[VolumeFile]:
        """See VolumeFiles."""
        script = _FIND.replace("$2", "" if deep else _SHALLOW)
        code, out = await self._sh(script, self._place(folder))
        if code == 3:
            raise NotFound(f"path: there is no directory {folder[:200]}", field="path", subject=folder)
        above, found = file_path(folder).rstrip("/"), []
        for line in out.splitlines()[:most]:
            kind, _, rest = line.partition("/")
            size, _, name = rest.partition("/")
            if size.isdigit():
                path = f"{above}/{name.removeprefix('./')}"
                found.append(VolumeFile(path, kind == "directory", Bytes(0 if kind == "directory" else int(size))))
        return found

    async def read(self, path: str, most: int) -> bytes:
        """See VolumeFiles."""
        guest, data = await self._streams.guest(self._principal, self._instance), bytearray()
        async for chunk in guest.read_file(self._place(path)):
            data += chunk
            if len(data) > most:
                raise Invalid(f"path: {path[:200]} is larger than {most} bytes", field="path")
        return bytes(data)

    async def write(self, path: str, source: Path) -> None:
        """See VolumeFiles."""

        async def chunks() -> AsyncIterator[bytes]:
            with source.open("rb") as file:
                while data := file.read(MIB):
                    yield data

        guest = await self._streams.guest(self._principal, self._instance)
        try:
            await guest.write_file(self._place(path), chunks(), mode=0o644)
        except Invalid as fault:
            if "No space" in fault.public:
                raise NoCapacity("the volume is full", field="path") from fault
            raise

    async def remove(self, path: str) -> None:
        """See VolumeFiles."""
        script = 'if [ -d "$1" ] && [ ! -L "$1" ]; then rmdir "$1"; else rm "$1"; fi'
        place = self._place(path)
        code, _ = await self._sh(f'[ -e "$1" ] || [ -L "$1" ] || exit 3; {script}', place)
        if code == 3:
            raise NotFound(f"path: there is no {path[:200]}", field="path", subject=path)
        if code:
            raise Invalid(f"path: {path[:200]} is not empty, or cannot be written", field="path")

    async def used(self) -> Bytes:
        """See VolumeFiles."""
        code, out = await self._sh('df -kP "$1" | tail -n 1', self._root)
        words = out.split()
        if code or len(words) < 3 or not words[2].isdigit():
            return Bytes(0)
        return Bytes(int(words[2]) * 1024)
