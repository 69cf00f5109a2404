"""What a VM has of memory and processors, changed later."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.vms import Vm
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, Unsupported
from polyvisor.model.instance import Instance
from polyvisor.model.spec import Reshape
from polyvisor.model.units import MIB, Bytes

_OFF = (Face.STOPPED, Face.FAILED)


@asynccontextmanager
async def resized(call: Call, vm: Vm, memory_mb: int | None, vcpus: int | None) -> AsyncIterator[Vm]:
    """The VM with so much, and what it had before if what is done with it then does not go well.

    One that is off may have what the host has; others may have as much memory as they were started with.
    :raise Invalid, Unsupported, WrongState:
    """
    was = vm.instance.spec
    memory = None if memory_mb in (None, was.usable // MIB) else Bytes(MIB * (memory_mb or 0))
    count = None if vcpus == was.vcpus else vcpus
    if memory is None and count is None:
        yield vm
        return
    instance = await _changed(call, vm.instance, memory, count)
    try:
        yield replace(vm, instance=instance)
    except BaseException:
        with contextlib.suppress(Fault):
            await _changed(call, instance, memory and was.usable, count and was.vcpus)
        raise


async def _changed(call: Call, instance: Instance, memory: Bytes | None, vcpus: int | None) -> Instance:
    if face(instance) in _OFF and instance.operation is None:
        wanted = Reshape(vcpus=vcpus, memory=memory)
        return await call.core.shapes.reshape(call.principal, instance.id, lambda _: wanted)
    if vcpus is not None:
        has = f"the {instance.spec.vcpus} that it was started with"
        raise Unsupported(f"vcpu_count: a VM keeps {has} until it is off", field="vcpu_count")
    assert memory is not None
    return await call.core.allowances.allow(call.principal, instance.id, memory)
