"""`Volume`: a disk that outlives the instances it is attached to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from polyvisor.model.ids import HostId, InstanceId, ProjectId, VolumeId
from polyvisor.model.units import Bytes


class VolumeState(StrEnum):
    """`creating` and `deleting` are swept up after a crash; only `ready` ones can be attached."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Volume:
    """`size` is what a guest sees; the file is sparse. `attached` lists the instances that hold it."""

    id: VolumeId
    project: ProjectId
    name: str
    size: Bytes
    state: VolumeState
    host: HostId
    created: datetime
    attached: tuple[InstanceId, ...] = ()
