"""Snapshots as what instances are made from: found, and fit to be used."""

from __future__ import annotations

from polyvisor.access.grants import permit
from polyvisor.model.faults import Busy, NotFound
from polyvisor.model.ids import SnapshotId, is_id
from polyvisor.model.principal import Action, Principal
from polyvisor.model.snapshot import Snapshot, SnapshotState, TemplateFor
from polyvisor.model.spec import Spec
from polyvisor.ports.store import Unit


async def find_snapshot(unit: Unit, principal: Principal, key: str, action: Action) -> Snapshot:
    """By id or name, in the caller's transaction. :raise NotFound:"""
    snapshot: Snapshot | None = None
    try:
        if is_id(key):
            try:
                snapshot = await unit.snapshots.get(SnapshotId(key))
            except NotFound:
                snapshot = None
        snapshot = snapshot or await unit.snapshots.named(principal.project, key)
        permit(principal, action, snapshot.project, key)
    except NotFound as error:
        raise NotFound(f"no snapshot {key[:80]!r}", field="snapshot", subject=key) from error
    return snapshot


def require_ready(snapshot: Snapshot) -> Snapshot:
    """:raise Busy: it is not there yet, or about to go."""
    if snapshot.state is not SnapshotState.READY:
        raise Busy(f"snapshot {snapshot.name} is {snapshot.state}", field="snapshot", subject=snapshot.id)
    return snapshot


async def find_template(unit: Unit, principal: Principal, spec: Spec) -> Snapshot | None:
    """The template that an instance of this spec can be made of."""
    for template in await unit.snapshots.templates(spec.image):
        was = template.spec
        same = (was.vcpus, was.memory, was.disk, was.network) == (spec.vcpus, spec.memory, spec.disk, spec.network)
        if same and template.state is SnapshotState.READY and may_use(principal, template):
            return template
    return None


def may_use(principal: Principal, template: Snapshot) -> bool:
    """Whether the caller's instances may be made of it."""
    return template.template is TemplateFor.ALL or template.project == principal.project
