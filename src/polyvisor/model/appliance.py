"""`Appliance`: a machine in a file that goes from one hypervisor to another, as its descriptor tells of it."""

from __future__ import annotations

from dataclasses import dataclass

from polyvisor.model.units import Bytes


@dataclass(frozen=True, slots=True)
class Part:
    """A disk's image: `length` bytes of the file, from `at` on."""

    at: int
    length: int


@dataclass(frozen=True, slots=True)
class Cable:
    """A NIC: the network that it was in, and its address ("": none is told)."""

    network: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Appliance:
    """`disks` are in the order in which the machine had them; one that is to be written has none yet."""

    name: str
    vcpus: int = 1
    memory: Bytes = Bytes(1024**3)
    uefi: bool = False
    nics: tuple[Cable, ...] = ()
    disks: tuple[Part, ...] = ()
