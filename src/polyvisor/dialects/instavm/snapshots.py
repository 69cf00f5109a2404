"""Snapshots for this dialect's routes: of VMs, and images of a registry that are to be had as one (instavm.md §1.8)."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from polyvisor.dialects.instavm import builds
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.dialects.instavm.vms import Origin, Vm, stamp
from polyvisor.engine.endings import name_beside
from polyvisor.engine.instances import Until
from polyvisor.model.faults import Exists, Invalid, NotFound, WrongState
from polyvisor.model.foreign import Foreign
from polyvisor.model.ids import check_name
from polyvisor.model.snapshot import Snapshot, SnapshotState

_PREFIX = "snap_"
_LIMIT = 280.0
_WORDS = {
    SnapshotState.CREATING: "creating", SnapshotState.READY: "ready", SnapshotState.DELETING: "deleting",
}  # fmt: skip


def shown(id: str) -> str:
    """How one of ours is called here."""
    return _PREFIX + id


async def take(call: Call, vm: Vm, name: str, *, wait: bool) -> str:
    """A new one, by our id: of the disk, with all that was written. Many may have one name here. :raise Fault:"""
    await call.core.streams.sync(call.principal, vm.instance.id)
    foreign = Foreign(DIALECT, json.dumps({"name": name})) if name else None
    try:
        taken = await call.core.snapshots.create(call.principal, vm.instance.id, _ours(name), foreign=foreign)
    except Exists:
        taken = await call.core.snapshots.create(call.principal, vm.instance.id, foreign=foreign)
    await call.core.snapshots.settle(taken, Until.LAUNCHED if wait else Until.ACCEPTED, _LIMIT)
    return taken.snapshot.id


def _ours(name: str) -> str:
    """The name, where ours can be such a one."""
    try:
        return check_name(name) if name else ""
    except Invalid:
        return ""


async def find(call: Call, key: str) -> Snapshot:
    """:raise NotFound:"""
    missing = NotFound(f"Snapshot {key[:80]} not found", subject=key[:80])
    if "\0" in key:
        raise missing
    try:
        found = await call.core.snapshots.get(call.principal, key.removeprefix(_PREFIX))
    except NotFound as fault:
        raise missing from fault
    if found.template or found.transient:
        raise missing
    return found


async def origin(call: Call, key: str) -> Origin:
    """What a VM of that snapshot is made of. :raise NotFound: there is none. :raise WrongState: it is not ready."""
    build = await builds.find(call, key)
    if build is not None:
        if build.status != builds.READY:
            raise WrongState(f"Snapshot {key[:80]} is {build.status}", field="snapshot_id")
        return Origin(build.snapshot, shown=key)
    try:
        return Origin((await find(call, key)).id, shown=key)
    except NotFound as fault:
        raise NotFound(fault.public, field="snapshot_id") from fault


async def check_variant(call: Call, origin: Origin, variant: str) -> None:
    """:raise Invalid: there is no such variant, or the snapshot is not of its image."""
    name = call.settings.image(variant)
    spec = (await call.core.snapshots.get(call.principal, origin.snapshot)).spec
    if spec.image_name == name:
        return
    with contextlib.suppress(NotFound):
        if (await call.core.images.get(call.principal, name)).id == spec.image:
            return
    raise Invalid(
        f"image_variant: the snapshot is of {spec.image_name[:120] or 'no image'}, not of {variant[:60]!r}",
        field="image_variant",
    )


async def all_described(call: Call, kind: str | None = None) -> list[dict[str, Any]]:
    """All of a type that the caller may see, oldest first; those of VMs are of type `user`."""
    made = [builds.told(one) for one in await builds.everything(call)]
    found: list[Snapshot] = []
    cursor: str | None = None
    while kind in (None, "user"):
        page = await call.core.snapshots.list(call.principal, cursor, 1000)
        found += [one for one in page.items if not one.template and not one.transient]
        cursor = page.next
        if cursor is None:
            break
    texts = await call.core.foreigners.remainders(DIALECT, [one.id for one in found]) if found else {}
    told = [_told(one, text) for one in found if "build" not in json.loads(text := texts.get(one.id) or "{}")]
    return sorted(told + [one for one in made if kind in (None, one["type"])], key=lambda one: str(one["created_at"]))


async def described_one(call: Call, key: str) -> dict[str, Any]:
    """:raise NotFound:"""
    if (build := await builds.find(call, key)) is not None:
        return builds.told(build)
    found = await find(call, key)
    return _told(found, (await call.core.foreigners.remainders(DIALECT, [found.id])).get(found.id, "{}"))


def _asked(snapshot: Snapshot) -> str:
    """The name that was asked for its source's end, where only our own has something added to it."""
    wished = snapshot.spec.ending.name
    return wished if wished and snapshot.name == name_beside(wished, snapshot.source) else snapshot.name


def _told(snapshot: Snapshot, remainder: str) -> dict[str, Any]:
    return {
        "id": shown(snapshot.id),
        "snapshot_id": shown(snapshot.id),
        "name": json.loads(remainder or "{}").get("name") or _asked(snapshot),
        "status": _WORDS[snapshot.state],
        "type": "user",
        "snapshot_type": "user",
        "is_public": False,
        "oci_image": None,
        "size_bytes": snapshot.size,
        "created_at": stamp(snapshot.created),
        "last_error": None,
        "vm_id": f"vmid-{snapshot.source}",
    }
