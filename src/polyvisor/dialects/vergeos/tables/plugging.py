"""Volumes and media plugged into a VM and out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.resource import Call
from polyvisor.dialects.vergeos.sources import Drive, Vm
from polyvisor.engine.instances import Until
from polyvisor.model.instance import Bus
from polyvisor.model.volume import Volume

LIMIT = 60.0  # seconds for a disk to come or go


async def medium(call: Call, key: object) -> Volume | None:
    """The file of the catalogue with that key; None: no medium. :raise Refusal: there is none."""
    if key is None:
        return None
    for file in await call.world.files():
        if file.key == key:
            return file.volume
    raise errors.unset("media_source")


async def plug(call: Call, vm: Vm, told: Mapping[str, Any], volume: Volume) -> None:
    """Attach: now to one that runs, for its next start to one that is off."""
    assert vm.instance is not None
    is_cd = told.get("media") == "cdrom"
    bus = Bus.USB if is_cd or told.get("interface") == "usb" else Bus.VIRTIO
    read_only = is_cd or bool(told.get("readonly"))
    principal = call.principal
    asked = await call.core.volumes.attach(principal, vm.instance.id, volume.id, read_only=read_only, bus=bus)
    await call.core.instances.settle(asked, Until.LAUNCHED, LIMIT)


async def unplug(call: Call, drive: Drive) -> None:
    """Detach."""
    assert drive.vm.instance is not None and drive.volume is not None
    asked = await call.core.volumes.detach(call.principal, drive.vm.instance.id, drive.volume.id)
    await call.core.instances.settle(asked, Until.LAUNCHED, LIMIT)
