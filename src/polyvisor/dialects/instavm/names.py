"""How this dialect calls things: VMs by incarnation, sessions by UUID (instavm.md §1.1).

A VM's name is made of our id and of how often it was resumed, so each of its names leads to it, also an earlier one. A
session that was asked for has a UUID of its own; a VM that another API made has a session as well, whose UUID is its id
in another notation.
"""

from __future__ import annotations

import re
import string
import uuid

DIALECT = "instavm"
VM = "vm"
"""The kind of alias and of row that a VM is."""
_VM = re.compile(r"vmid-([a-z0-9]{24})(?:-([1-9][0-9]{0,8}))?")
_DIGITS = string.digits + string.ascii_lowercase
_LONGEST = 24


def vm_id(instance: str, incarnation: int) -> str:
    """The name of a VM; the first incarnation is 1."""
    return f"vmid-{instance}" if incarnation <= 1 else f"vmid-{instance}-{incarnation}"


def instance_of(vm: str) -> str:
    """The id of ours that a VM's name has in it; what is no such name may be one of ours, and stays."""
    found = _VM.fullmatch(vm)
    return found[1] if found else vm


def incarnation_of(vm: str) -> int:
    """How often it was begun by then; what is no such name is of all times."""
    found = _VM.fullmatch(vm)
    return int(found[2] or 1) if found else 1


def is_session(text: str) -> bool:
    """Whether it is a UUID as this dialect writes them."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def session_of(instance: str) -> str:
    """The session of a VM that was not made by one."""
    return str(uuid.UUID(int=int(instance, 36)))


def instance_in(session: str) -> str:
    """The id in such a session's name; of another one it is nobody's."""
    number, digits = uuid.UUID(session).int, ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits.rjust(_LONGEST, "0") if len(digits) <= _LONGEST else ""
