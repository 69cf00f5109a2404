"""The inputs of the procedures, as a client sends them. Fields that are not named here are ignored."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Input(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Nothing(_Input):
    """Of a procedure that takes none."""


class ThisVm(_Input):
    vmId: str


class ThisVolume(_Input):
    volumeId: str


class ThisOrganization(_Input):
    organizationId: str


class Launch(_Input):
    organizationId: str
    name: str
    plan: str
    region: str
    os: str
    sshKeys: list[str] | None = None
    userData: str | None = None


class Attach(_Input):
    vmId: str
    volumeId: str
    mountPath: str | None = None


class Detach(_Input):
    vmId: str
    volumeId: str


class NewVolume(_Input):
    organizationId: str | None = None
    name: str
    sizeGb: int
    tier: str = "ssd"
    region: str


class ResizeVolume(_Input):
    volumeId: str
    sizeGb: int


class NewOrganization(_Input):
    name: str
    description: str | None = None


class ChangeOrganization(_Input):
    organizationId: str
    name: str | None = None
    description: str | None = None


class ChangeMember(_Input):
    organizationId: str
    userId: str
    role: str


class ThisMember(_Input):
    organizationId: str
    userId: str


class NewToken(_Input):
    name: str
    scopes: list[str] | None = None
    organizationId: str | None = None
    expiresAt: str | None = None


class ThisToken(_Input):
    tokenId: str
