"""Typed ids. Ours are 24 characters in the style of CUID2: a letter, then base 36."""

from __future__ import annotations

import re
import secrets
import uuid
from typing import NewType

from polyvisor.model.faults import Invalid

InstanceId = NewType("InstanceId", str)
ProjectId = NewType("ProjectId", str)
OperationId = NewType("OperationId", str)
VolumeId = NewType("VolumeId", str)
SnapshotId = NewType("SnapshotId", str)
PushId = NewType("PushId", str)
TaskId = NewType("TaskId", str)
IngressId = NewType("IngressId", str)
KeyId = NewType("KeyId", str)
UserId = NewType("UserId", str)
HostId = NewType("HostId", str)
VaultId = NewType("VaultId", str)
CredentialId = NewType("CredentialId", str)
ServiceId = NewType("ServiceId", str)
Digest = NewType("Digest", str)

LENGTH = 24
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ALPHABET = "0123456789" + _LETTERS
_ID = re.compile(rf"[a-z][0-9a-z]{{{LENGTH - 1}}}")
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?")


def mint() -> str:
    """A new id: about 118 random bits, no order, no meaning."""
    return secrets.choice(_LETTERS) + "".join(secrets.choice(_ALPHABET) for _ in range(LENGTH - 1))


def is_id(text: str) -> bool:
    """Whether `text` has the form of one of our ids."""
    return _ID.fullmatch(text) is not None


def check_name(text: str, field: str = "name") -> str:
    """`text`, when it can name a thing: 1 to 63 letters, digits, `.`, `_`, `-`, alphanumeric at both ends.

    :raise Invalid: naming `field`.
    """
    if not _NAME.fullmatch(text):
        raise Invalid(
            f"{field}: must be 1 to 63 letters, digits, '.', '_' or '-', with a letter or digit at both ends",
            field=field,
        )
    return text


def machine_uuid(id: InstanceId) -> str:
    """The UUID the hypervisor is given: a pure function of our id, so a process can prove whose it is."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "polyvisor:" + id))


def machine_id(id: InstanceId) -> str:
    """The same, as a guest has it in /etc/machine-id."""
    return machine_uuid(id).replace("-", "")
