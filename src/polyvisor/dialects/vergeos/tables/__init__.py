"""Every table, with what may be done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Resource
from polyvisor.dialects.vergeos.tables import (
    actions,
    cloudinit,
    devices,
    drives,
    empty,
    files,
    host,
    imports,
    keys,
    logs,
    machines,
    nics,
    notes,
    people,
    permissions,
    profiles,
    snapshots,
    stats,
    tags,
    task_schedules,
    tasks,
    vms,
)

RESOURCES: Mapping[str, Resource] = {
    resource.table.name: resource
    for resource in (
        replace(vms.RESOURCE, acts=actions.OF_ROWS),
        cloudinit.RESOURCE,
        *machines.RESOURCES,
        *logs.RESOURCES,
        *stats.RESOURCES,
        *actions.RESOURCES,
        *drives.RESOURCES,
        *nics.RESOURCES,
        *devices.RESOURCES,
        *snapshots.RESOURCES,
        *profiles.RESOURCES,
        *files.RESOURCES,
        *tasks.RESOURCES,
        *task_schedules.RESOURCES,
        *imports.RESOURCES,
        *host.RESOURCES,
        *people.RESOURCES,
        *permissions.RESOURCES,
        *keys.RESOURCES,
        *tags.RESOURCES,
        *notes.RESOURCES,
        *empty.RESOURCES,
    )
}
CATALOG: Mapping[str, Table] = {name: resource.table for name, resource in RESOURCES.items()}
