"""Volumes, their files and checkpoints, and volumes in VMs (instavm.md §1.4, §1.9)."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from pydantic import BaseModel

from polyvisor.dialects.instavm import vms, volumes
from polyvisor.dialects.instavm.door import Call, Caller
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.dialects.instavm.wire import Text, VMVolumeMountRequest
from polyvisor.dialects.kit.names import named
from polyvisor.engine.instances import Until
from polyvisor.model.faults import Exists, Fault, Invalid
from polyvisor.model.foreign import Foreign
from polyvisor.model.principal import Action
from polyvisor.model.units import MIB, Bytes
from polyvisor.model.volume import Volume

router = APIRouter(prefix="/v1")
_LARGEST = 256 * MIB  # bytes of a download, which is one JSON text
Flag = Annotated[bool, Query()]


class VolumeBody(BaseModel):
    """`quota_bytes`: as large as it may become."""

    name: Text
    quota_bytes: int


class VolumeUpdate(BaseModel):
    """What is left out stays."""

    name: Text | None = None
    quota_bytes: int | None = None


class CheckpointBody(BaseModel):
    """Of what the volume holds now."""

    name: Text | None = None


class FileBody(BaseModel):
    """Which file."""

    path: Text


def _in_our_words(fault: Invalid) -> Invalid:
    """The engine says size."""
    if fault.field != "size":
        return fault
    return Invalid(f"quota_bytes: {fault.public.removeprefix('size: ')}", field="quota_bytes")


@router.post("/volumes")
async def create(call: Caller, body: VolumeBody) -> dict[str, Any]:
    """An empty volume."""
    name, foreign = named(DIALECT, body.name, volumes.VOLUME)
    try:
        made = await call.core.volumes.create(call.principal, name, Bytes(body.quota_bytes), foreign=foreign)
    except Invalid as fault:
        raise _in_our_words(fault) from fault
    return (await volumes.described(call, [made], refresh=True))[0]


@router.get("/volumes")
async def list_all(call: Caller, refresh_usage: Flag = False) -> list[dict[str, Any]]:
    """All, oldest first."""
    return await volumes.described(call, await volumes.everything(call), refresh=refresh_usage)


@router.get("/volumes/{volume_id}")
async def get(call: Caller, volume_id: str, refresh_usage: Flag = False) -> dict[str, Any]:
    """One."""
    return (await volumes.described(call, [await volumes.find(call, volume_id)], refresh=refresh_usage))[0]


@router.patch("/volumes/{volume_id}")
async def update(call: Caller, volume_id: str, body: VolumeUpdate) -> dict[str, Any]:
    """Another name, or more room; a machine that has it sees that at once."""
    volume = await volumes.find(call, volume_id, Action.VOLUME_ALTER)
    was = await volumes.name_of(call, volume)
    if body.name is not None:
        await _rename(call, volume, body.name)
    if body.quota_bytes is not None and body.quota_bytes != volume.size:
        try:
            volume = await call.core.volumes.resize(call.principal, volume.id, Bytes(body.quota_bytes))
        except Fault as fault:  # a name can be given back, and room cannot
            if body.name is not None:
                await _rename(call, volume, was)
            raise (_in_our_words(fault) if isinstance(fault, Invalid) else fault) from fault
    return (await volumes.described(call, [volume], refresh=False))[0]


async def _rename(call: Call, volume: Volume, name: str) -> None:
    """:raise Invalid: it cannot be called so. :raise Exists: another one is."""
    named(DIALECT, name, volumes.VOLUME)  # whether it can be one
    foreign = Foreign(DIALECT, json.dumps({"name": name}), (volumes.VOLUME, name))
    try:
        await call.core.foreigners.put(volume.project, volume.id, foreign)
    except Exists as fault:
        raise Exists("name: is taken already", field="name") from fault


@router.delete("/volumes/{volume_id}")
async def delete(call: Caller, volume_id: str) -> dict[str, Any]:
    """It, its files and checkpoints are no more."""
    volume = await volumes.find(call, volume_id, Action.VOLUME_DELETE)
    await volumes.delete(call, volume)
    return {"id": volumes.shown(volume.id), "status": "deleted"}


# -- checkpoints -------------------------------------------------------------------------------------------------------


@router.post("/volumes/{volume_id}/checkpoints")
async def create_checkpoint(call: Caller, volume_id: str, body: CheckpointBody) -> dict[str, Any]:
    """What the volume holds now, kept."""
    volume = await volumes.find(call, volume_id, Action.VOLUME_USE)
    return volumes.told_checkpoint(await volumes.take(call, volume, body.name or "checkpoint"))


@router.get("/volumes/{volume_id}/checkpoints")
async def list_checkpoints(call: Caller, volume_id: str) -> list[dict[str, Any]]:
    """A volume's, oldest first."""
    volume = await volumes.find(call, volume_id)
    return [volumes.told_checkpoint(one) for one in await volumes.checkpoints(call, [volume.id])]


@router.delete("/volumes/{volume_id}/checkpoints/{checkpoint_id}")
async def delete_checkpoint(call: Caller, volume_id: str, checkpoint_id: str) -> dict[str, Any]:
    """It is no more."""
    volume = await volumes.find(call, volume_id, Action.VOLUME_DELETE)
    found = await volumes.checkpoint(call, volume, checkpoint_id)
    await volumes.drop(call, found)
    return {"id": found.id, "status": "deleted"}


# -- files -------------------------------------------------------------------------------------------------------------


@router.get("/volumes/{volume_id}/files")
async def list_files(
    call: Caller, volume_id: str, prefix: str = "", recursive: Flag = True,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> list[dict[str, Any]]:  # fmt: skip
    """The files whose path begins so, each with its size; directories only where they are not gone into."""
    volume = await volumes.find(call, volume_id, Action.VOLUME_USE)
    prefix = prefix.lstrip("/")
    folder = prefix.rpartition("/")[0]
    found = await call.core.files.list(call.principal, volume.id, folder, deep=recursive, most=10 * limit)
    told = [
        {"path": one.path.lstrip("/"), "size": one.size, "is_dir": one.folder}
        for one in found
        if one.path.lstrip("/").startswith(prefix) and not (recursive and one.folder)
    ]
    return told[:limit]


@router.post("/volumes/{volume_id}/files/upload")
async def upload(
    call: Caller,
    volume_id: str,
    file: Annotated[UploadFile, File()],
    path: Annotated[str, Form()],
    overwrite: Annotated[bool, Form()] = False,
) -> dict[str, Any]:
    """A file, whole or not at all; its directories are made."""
    volume = await volumes.find(call, volume_id, Action.VOLUME_ALTER)
    with tempfile.NamedTemporaryFile(dir=call.core.images.uploads, prefix="file-") as part:
        size = 0
        while data := await file.read(MIB):
            size += len(data)
            if size > volume.size:
                raise Invalid("file: larger than the volume", field="file")
            await asyncio.to_thread(part.write, data)
        part.flush()
        await call.core.files.write(call.principal, volume.id, path, Path(part.name), over=overwrite)
    return {"path": path, "size": size, "volume_id": volumes.shown(volume.id), "status": "success"}


@router.post("/volumes/{volume_id}/files/download")
async def download(call: Caller, volume_id: str, body: FileBody) -> dict[str, Any]:
    """A file."""
    volume = await volumes.find(call, volume_id, Action.VOLUME_USE)
    data = await call.core.files.read(call.principal, volume.id, body.path, _LARGEST)
    content = (await asyncio.to_thread(base64.b64encode, data)).decode()
    return {"path": body.path, "content": content, "size": len(data), "encoding": "base64"}


@router.delete("/volumes/{volume_id}/files")
async def delete_file(call: Caller, volume_id: str, path: str) -> dict[str, Any]:
    """A file, or an empty directory."""
    volume = await volumes.find(call, volume_id, Action.VOLUME_ALTER)
    await call.core.files.remove(call.principal, volume.id, path)
    return {"path": path, "status": "deleted"}


# -- in VMs ------------------------------------------------------------------------------------------------------------


@router.post("/vms/{vm_id}/volumes")
async def mount(call: Caller, vm_id: str, body: VMVolumeMountRequest, wait: Flag = True) -> dict[str, Any]:
    """A volume in a VM that runs, or one of its checkpoints."""
    async with vms.held(call, vm_id, Action.INSTANCE_ALTER) as vm:
        wanted = await volumes.wanted(call, body.volume_id, body, "")
        try:
            asked = await call.core.volumes.attach(
                call.principal, vm.instance.id, wanted.volume, path=wanted.path, read_only=wanted.read_only
            )
        except Invalid as fault:
            if fault.field != "path":
                raise
            raise Invalid(f"mount_path: {fault.public.removeprefix('path: ')}", field="mount_path") from fault
        if wait:
            await call.core.instances.settle(asked, Until.LAUNCHED, vms.PATIENCE)
    told = next(
        one for one in await volumes.of_vm(call, await vms.latest(call, vm)) if one["mount_path"] == wanted.path
    )
    return told | {"vm_id": vm.id}


@router.get("/vms/{vm_id}/volumes")
async def list_mounts(call: Caller, vm_id: str) -> list[dict[str, Any]]:
    """What is mounted in a VM."""
    return await volumes.of_vm(call, await vms.find(call, vm_id))


@router.delete("/vms/{vm_id}/volumes/{volume_id}")
async def unmount(
    call: Caller, vm_id: str, volume_id: str, mount_path: str | None = None, wait: Flag = True
) -> dict[str, Any]:
    """It is mounted there no more, and whole."""
    async with vms.held(call, vm_id, Action.INSTANCE_ALTER) as vm:
        held = await volumes.mounted(call, vm, volume_id, mount_path)
        asked = await call.core.volumes.detach(call.principal, vm.instance.id, held.volume)
        if wait:
            await call.core.instances.settle(asked, Until.LAUNCHED, vms.PATIENCE)
    return {"vm_id": vm.id, "volume_id": volume_id, "mount_path": held.path, "status": "unmounted"}
