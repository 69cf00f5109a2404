"""Every table, with what may be done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Resource
from polyvisor.dialects.vergeos.tables import (
    actions,
    cloudinit,
    drives,
    empty,
    files,
    host,
    imports,
    keys,
    machines,
    nics,
    notes,
    people,
    permissions,
    snapshots,
    tags,
    vms,
)

RESOURCES: Mapping[str, Resource] = {
    resource.table.name: resource
    for resource in (
        replace(vms.RESOURCE, acts=actions.OF_ROWS),
        cloudinit.RESOURCE,
        *machines.RESOURCES,
        *actions.RESOURCES,
        *drives.RESOURCES,
        *nics.RESOURCES,
        *snapshots.RESOURCES,
        *files.RESOURCES,
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
