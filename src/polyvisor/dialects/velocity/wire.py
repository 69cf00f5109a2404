"""Requests, as clients send them. Ids are integers, or texts that look so. Unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _number(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= 19 and value.strip().lstrip("-").isdecimal():
        return int(value)
    return value


Number = Annotated[int, BeforeValidator(_number), Field(strict=True, ge=-(2**63), le=2**63 - 1)]
Text = Annotated[str, Field(strict=True, max_length=4096)]
Flag = Annotated[bool, Field(strict=True)]


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="ignore")


class Authenticate(Body):
    """`name` is what the documents call it, `username` what clients send."""

    username: Text
    password: Text

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if isinstance(values, dict) and "username" not in values and "name" in values:
            return {**values, "username": values["name"]}
        return values


class Authkey(Body):
    """A key to drop or to renew."""

    authkey: Text


class OneUser(Body):
    """Left out: who asks."""

    uid: Number | None = None


class ThisUser(Body):
    """A user."""

    uid: Number


class NewUser(Body):
    """A user who may do nothing yet."""

    name: Text
    password: Text


class Assign(Body):
    """A permission of a user on a group."""

    uid: Number
    gid: Number
    permission: Text


class Revoke(Body):
    """Without a permission: all of them."""

    uid: Number
    gid: Number
    permission: Text | None = None


class ThisGroup(Body):
    """A group."""

    gid: Number


class NewGroup(Body):
    """A group in another."""

    name: Text
    parent_gid: Number


class ThisMachine(Body):
    """A virtual machine."""

    vmid: Number


class ChangeState(Body):
    """`force` changes how a machine is stopped, and nothing else."""

    vmid: Number
    state: Literal["STOPPED", "RUNNING", "PAUSED"]
    force: Flag = False


class AssignPool(Body):
    """What a group may do with a pool. `quota` is bytes; 0: no limit."""

    gid: Number
    mpid: Number
    quota: Number
    write: Flag
    manage: Flag


class RevokePool(Body):
    """Nothing any more."""

    gid: Number
    mpid: Number


class NewMedium(Body):
    """A medium of zeros, of so many bytes."""

    mpid: Number
    gid: Number
    name: Text
    type: Text
    size: Number


class ThisMedium(Body):
    """A medium."""

    mid: Text


class Screen(Body):
    """A display. The seed's list of fields calls its name `description`."""

    name: Text
    width: Annotated[Number, Field(ge=1, le=16384)]
    height: Annotated[Number, Field(ge=1, le=16384)]
    ppi: Annotated[Number, Field(ge=1, le=10_000)]

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" not in values and "description" in values:
            return {**values, "name": values["description"]}
        return values


class Medium(Body):
    """A medium that is attached. A mode that there is none of has a code of its own, so it is any text here."""

    mid: Text
    mode: Text
    readonly: Flag


class Nic(Body):
    """A NIC; as with modes, its type is any text here."""

    type: Text
    host: Number | None = None


class NewMachine(Body):
    """A machine. What the seed calls `media`, the server and its clients call `disks`."""

    name: Text
    gid: Number
    cpus: Number
    memory_mib: Number
    displays: list[Screen]
    media: list[Medium]
    nics: list[Nic]
    rosetta: Flag
    autostart: Flag

    @model_validator(mode="before")
    @classmethod
    def _disks(cls, values: Any) -> Any:
        if isinstance(values, dict) and "media" not in values and "disks" in values:
            return {**values, "media": values["disks"]}
        return values
