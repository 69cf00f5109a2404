"""Volumes for this dialect's routes, and their checkpoints: copies that are only read (instavm.md §1.9)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.dialects.instavm.vms import Vm, now, stamp
from polyvisor.dialects.instavm.wire import CreatedVolumeMount, Place
from polyvisor.dialects.kit.names import named
from polyvisor.model.faults import Busy, Fault, Invalid, NotFound
from polyvisor.model.foreign import Row
from polyvisor.model.instance import Mount
from polyvisor.model.principal import Action
from polyvisor.model.units import GIB, Bytes
from polyvisor.model.volume import DATA, Volume, VolumeState

CHECKPOINT = "checkpoint"
VOLUME = "volume"
LATEST = "latest"
_PREFIX, _OF_CHECKPOINT = "vol_", "ckpt_"
_WORDS = {
    VolumeState.CREATING: "creating", VolumeState.READY: "available", VolumeState.DELETING: "deleting",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`copy` is the volume that holds it."""

    volume: str
    copy: str
    name: str
    created: datetime
    row: Row

    @property
    def id(self) -> str:
        """How it is called."""
        return _OF_CHECKPOINT + self.copy


def shown(id: str) -> str:
    """How a volume of ours is called here."""
    return _PREFIX + id


async def find(call: Call, key: str, action: Action = Action.VOLUME_VIEW) -> Volume:
    """:raise NotFound: there is none, or it is another's."""
    missing = NotFound(f"Volume {key[:80]} not found", subject=key[:80])
    if "\0" in key:
        raise missing
    try:
        found = await call.core.volumes.get(call.principal, key.removeprefix(_PREFIX))
    except NotFound as fault:
        raise missing from fault
    if found.kind != DATA or not call.principal.may(action, found.project):
        raise missing
    if any(
        row.name == found.id for row in await call.core.rows.of(DIALECT, [CHECKPOINT])
    ):  # that has routes of its own
        raise missing
    return found


async def name_of(call: Call, volume: Volume) -> str:
    """What its owner calls it."""
    kept = (await call.core.foreigners.remainders(DIALECT, [volume.id])).get(volume.id)
    return str(json.loads(kept or "{}").get("name") or volume.name)


async def checkpoints(call: Call, volumes: Collection[str] | None = None) -> list[Checkpoint]:
    """Those of some volumes, or all, oldest first."""
    found = []
    for row in await call.core.rows.of(DIALECT, [CHECKPOINT], volumes):
        data = json.loads(row.data)
        found.append(Checkpoint(row.subject, row.name, data["name"], datetime.fromisoformat(data["created"]), row))
    return found


async def take(call: Call, volume: Volume, name: str) -> Checkpoint:
    """What the volume holds now, with what its machine has written. :raise Fault:"""
    for holder in volume.attached:
        await call.core.streams.sync(call.principal, holder)
    (copy,) = await call.core.media.copy(call.principal, [volume])
    data = json.dumps({"name": name, "created": now().isoformat()})
    row = Row(DIALECT, CHECKPOINT, copy.id, volume.project, volume.id, data)
    try:
        await call.core.rows.add(call.principal, [row], Action.VOLUME_CREATE)
    except BaseException:
        await call.core.volumes.delete(call.principal, copy.id)
        raise
    return next(one for one in await checkpoints(call, [volume.id]) if one.copy == copy.id)


async def checkpoint(call: Call, volume: Volume, id: str) -> Checkpoint:
    """A volume's, by id or the latest. :raise NotFound:"""
    found = await checkpoints(call, [volume.id])
    if id == LATEST and found:
        return found[-1]
    for one in found:
        if id in (one.id, one.copy):
            return one
    raise NotFound(f"Checkpoint {id[:80]} not found")


async def drop(call: Call, one: Checkpoint) -> None:
    """It is no more. :raise Busy: a machine has it."""
    try:
        await call.core.volumes.delete(call.principal, one.copy)
    except NotFound:
        pass
    except Busy as fault:
        raise Busy(f"checkpoint {one.id} is mounted", subject=one.id) from fault
    await call.core.rows.remove(call.principal, [one.row], Action.VOLUME_DELETE)


async def delete(call: Call, volume: Volume) -> None:
    """It and its checkpoints are no more. :raise Busy: a machine has one of them, and all stay."""
    found = await checkpoints(call, [volume.id])
    for copy in (volume.id, *(one.copy for one in found)):
        try:
            if (await call.core.volumes.get(call.principal, copy)).attached:
                raise Busy(f"volume {shown(volume.id)} is mounted", subject=volume.id)
        except NotFound:
            continue
    for one in found:
        await drop(call, one)
    await call.core.volumes.delete(call.principal, volume.id)


async def called(call: Call, one: CreatedVolumeMount, field: str) -> tuple[str, Volume | None]:
    """The id of the volume that is asked for with a new VM, and the volume itself if it had to be made.

    :raise Invalid: neither id nor name is told, or nothing is of that name and it is not to be made.
    """
    if one.volume_id is not None:
        return one.volume_id, None
    if one.name is None:
        raise Invalid(f"{field}volume_id: Field required", field=f"{field}volume_id")
    own = [volume for volume in await everything(call) if volume.project == call.principal.project]
    kept = await call.core.foreigners.remainders(DIALECT, [volume.id for volume in own]) if own else {}
    for volume in own:
        if json.loads(kept.get(volume.id) or "{}").get("name", volume.name) == one.name:
            return volume.id, None
    if not one.create_if_missing:
        raise Invalid(f"{field}name: no volume is called that", field=f"{field}name")
    name, foreign = named(DIALECT, one.name, VOLUME)
    size = Bytes((one.size_gb or 1) * GIB)
    try:
        made = await call.core.volumes.create(call.principal, name, size, foreign=foreign)
    except Invalid as fault:
        word = "size_gb" if fault.field == "size" else "name"
        raise Invalid(f"{field}{word}: {fault.public}", field=f"{field}{word}") from fault
    return made.id, made


async def wanted(call: Call, key: str, one: Place, field: str) -> Mount:
    """The mount that is asked for. :raise Invalid: naming what of it is wrong, below `field`."""
    try:
        volume = await find(call, key, Action.VOLUME_USE)
    except NotFound as fault:
        raise Invalid(f"{field}volume_id: {fault.public}", field=f"{field}volume_id") from fault
    if one.checkpoint_id is None or (one.checkpoint_id == LATEST and not await checkpoints(call, [volume.id])):
        return Mount(volume.id, volume.name, one.mount_path, one.mode == "ro")
    if one.mode != "ro":
        text = f"{field}checkpoint_id: a checkpoint is mounted with mode ro"
        raise Invalid(text, field=f"{field}checkpoint_id")
    try:
        copy = (await checkpoint(call, volume, one.checkpoint_id)).copy
        return Mount((await call.core.volumes.get(call.principal, copy)).id, copy, one.mount_path, True)
    except NotFound as fault:
        raise Invalid(f"{field}checkpoint_id: {fault.public}", field=f"{field}checkpoint_id") from fault


# -- showing -----------------------------------------------------------------------------------------------------------


async def everything(call: Call) -> list[Volume]:
    """All that the caller may see and that are nobody's checkpoint, oldest first."""
    found: list[Volume] = []
    cursor: str | None = None
    hidden = {one.copy for one in await checkpoints(call)}
    while True:
        page = await call.core.volumes.list(call.principal, cursor, 1000)
        found += [one for one in page.items if one.kind == DATA and one.id not in hidden]
        cursor = page.next
        if cursor is None:
            return found


async def described(call: Call, volumes: Sequence[Volume], *, refresh: bool) -> list[dict[str, Any]]:
    """As their routes have them. `refresh`: files are counted, else the room that they take on the host."""
    texts = await call.core.foreigners.remainders(DIALECT, [one.id for one in volumes]) if volumes else {}
    return [await _told(call, one, texts, refresh=refresh) for one in volumes]


async def _told(call: Call, volume: Volume, texts: Mapping[str, str], *, refresh: bool) -> dict[str, Any]:
    used = call.core.media.used(volume)
    if refresh:
        try:
            used = await call.core.files.used(call.principal, volume.id)
        except Fault:  # a machine has it that does not run
            used = call.core.media.used(volume)
    return {
        "id": shown(volume.id),
        "volume_id": shown(volume.id),
        "name": json.loads(texts.get(volume.id) or "{}").get("name") or volume.name,
        "quota_bytes": volume.size,
        "used_bytes": used,
        "status": "mounted" if volume.attached else _WORDS[volume.state],
        "created_at": stamp(volume.created),
    }


def told_checkpoint(one: Checkpoint) -> dict[str, Any]:
    """As its routes have it."""
    return {
        "id": one.id,
        "checkpoint_id": one.id,
        "volume_id": shown(one.volume),
        "name": one.name,
        "status": "ready",
        "created_at": stamp(one.created),
    }


async def of_vm(call: Call, vm: Vm) -> list[dict[str, Any]]:
    """What is mounted in a VM."""
    copies = {one.copy: one for one in await checkpoints(call)}
    found = []
    for mount in vm.instance.mounts:
        point = copies.get(mount.volume)
        found.append({
            "volume_id": shown(point.volume if point else mount.volume),
            "mount_path": mount.path,
            "mode": "ro" if mount.read_only else "rw",
            "checkpoint_id": point.id if point else None,
            "status": str(mount.state),
        })  # fmt: skip
    return found


async def mounted(call: Call, vm: Vm, key: str, path: str | None) -> Mount:
    """The mount of a volume, or of a checkpoint of it, at that path. :raise NotFound:"""
    wanted_id = key.removeprefix(_PREFIX)
    copies = {one.copy: one.volume for one in await checkpoints(call)}
    for mount in vm.instance.mounts:
        volume = copies.get(mount.volume, mount.volume)
        if wanted_id in (volume, mount.name) and path in (None, "", mount.path):
            return mount
    raise NotFound(f"Volume {key[:80]} is not mounted{f' at {path[:200]}' if path else ''}")
