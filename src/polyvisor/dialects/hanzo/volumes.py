"""What machines do with volumes: plugged, mounted by the agent, written into the guest's fstab (hanzo.md §2.4)."""

from __future__ import annotations

import contextlib
import json
import logging
import re

from polyvisor.dialects.hanzo import translate
from polyvisor.dialects.hanzo.find import DIALECT, Kept, kept_of
from polyvisor.dialects.hanzo.states import RUNNING, STOPPED, word
from polyvisor.dialects.hanzo.table import Call
from polyvisor.engine import Engine
from polyvisor.engine.instances import Until
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Exists, Fault, Invalid, NotFound, WrongState
from polyvisor.model.foreign import Foreign
from polyvisor.model.guest import Exec, Exit
from polyvisor.model.instance import Instance, Mount
from polyvisor.model.principal import SYSTEM
from polyvisor.model.spec import Shape
from polyvisor.model.units import Seconds
from polyvisor.model.volume import Volume

log = logging.getLogger("polyvisor.hanzo")
LIMIT = 60.0  # seconds for a disk to come or go
_PARTING = 15.0  # likewise, of a machine that is about to go itself
_PATH = re.compile(r"(/[^/\s]+)+/?")
_TABLE_LIMIT = Seconds(20.0)
# The device and the line behind it; a line that is there already stays. Without systemd nobody needs to be told.
_ADD = 'grep -q "^$1 " /etc/fstab || echo "$1 $2 ext4 defaults,nofail 0 2" >> /etc/fstab; systemctl daemon-reload'
_REMOVE = 'sed -i "\\#^$1 #d" /etc/fstab; systemctl daemon-reload'


def check_path(path: str | None) -> str:
    """:raise Invalid: it is no absolute path below the root."""
    if not path:
        return ""
    if not _PATH.fullmatch(path) or not path.isprintable() or ".." in path.split("/") or len(path) > 1024:
        raise Invalid("mountPath: must be an absolute path below /, without spaces", field="mountPath")
    return path.rstrip("/")


async def mounted_volumes(core: Engine, instance: Instance) -> list[dict[str, object]]:
    """The volumes of a machine, as it has them."""
    kept = await kept_of(core, [mount.volume for mount in instance.mounts])
    found = []
    for mount in instance.mounts:
        with contextlib.suppress(NotFound):  # it went this moment
            found.append(translate.attached(await core.volumes.get(SYSTEM, mount.volume), kept[mount.volume], mount))
    return found


def mount_of(instance: Instance, volume: Volume) -> Mount | None:
    """A volume's place on a machine."""
    return next((mount for mount in instance.mounts if mount.volume == volume.id), None)


async def attach(call: Call, instance: Instance, volume: Volume, path: str) -> bool:
    """Plug it, and mount it where the machine has an agent; whether it is mounted now.

    :raise WrongState: the machine is neither running nor stopped. :raise Exists, Busy, Invalid:
    """
    status = word(instance, call.core.clock())
    if status not in (RUNNING, STOPPED):
        raise WrongState(f"VM is {status}: it must be running or stopped to have a volume attached")
    if mount_of(instance, volume) is not None:
        raise Exists("volumeId: the volume is attached to this VM already", field="volumeId")
    kept = await kept_of(call.core, [volume.id, *(mount.volume for mount in instance.mounts)])
    taken = {mount.path or kept[mount.volume].get("mountPath") for mount in instance.mounts}
    if path and path in taken:
        raise Exists(f"mountPath: {path} is taken by another volume", field="mountPath")
    running = face(instance) is Face.RUNNING
    heard = not instance.spec.blank and (instance.observed.ready or not running)
    asked = await call.core.volumes.attach(call.principal, instance.id, volume.id, path=path if heard else "")
    try:
        await call.core.instances.settle(asked, Until.LAUNCHED, LIMIT)
    except Invalid as fault:
        raise Invalid(f"volumeId: the volume cannot be mounted at {path}: {fault.public}", field="volumeId") from fault
    if path and not heard:
        await _keep(call.core, volume, kept[volume.id] | {"mountPath": path})
    mounted = bool(path) and heard and running
    if mounted:
        await _table(call, instance, _ADD, translate.device_of(volume), path)
    return mounted


async def detach(call: Call, instance: Instance, volume: Volume) -> None:
    """Unmount and unplug it. :raise NotFound: it is not attached there. :raise Busy: the guest uses it."""
    mount = mount_of(instance, volume)
    if mount is None:
        raise NotFound("Volume is not attached to this VM", field="volumeId")
    listed = bool(mount.path) and face(instance) is Face.RUNNING and instance.observed.ready
    if listed:
        await _table(call, instance, _REMOVE, translate.device_of(volume))
    try:
        asked = await call.core.volumes.detach(call.principal, instance.id, volume.id)
        await call.core.instances.settle(asked, Until.LAUNCHED, LIMIT)
    except Fault:
        if listed:
            await _table(call, instance, _ADD, translate.device_of(volume), mount.path)
        raise
    kept = (await kept_of(call.core, [volume.id]))[volume.id]
    if kept.pop("mountPath", None):
        await _keep(call.core, volume, kept)


async def release(call: Call, instance: Instance) -> None:
    """Let a machine that is about to go write out what it has for its volumes, as far as it does."""
    for mount in instance.mounts:
        if mount.path:
            with contextlib.suppress(Fault):
                asked = await call.core.volumes.detach(call.principal, instance.id, mount.volume)
                await call.core.instances.settle(asked, Until.LAUNCHED, _PARTING)


async def _keep(core: Engine, volume: Volume, kept: Kept) -> None:
    await core.foreigners.put(volume.project, volume.id, Foreign(DIALECT, json.dumps(kept)))


async def _table(call: Call, instance: Instance, script: str, *words: str) -> None:
    """Let a full guest mount it at its boot, before its services; that the host does so, too, is a moment later."""
    if instance.spec.shape is not Shape.FULL:
        return
    try:
        ask = Exec(("sh", "-c", script, "sh", *words), timeout=_TABLE_LIMIT)
        process = await call.core.streams.execute(call.principal, instance.id, ask)
        try:
            while not isinstance(await process.read(), Exit):
                pass
        finally:
            await process.close()
    except Fault as fault:
        log.warning("%s: its fstab is left as it is: %s", instance.id, fault.public)
