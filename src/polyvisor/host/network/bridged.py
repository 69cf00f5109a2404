"""NICs on bridges of the operator's: which there are, and TAP devices that last as long as who holds them.

Nothing is made on a bridge that is not ours but ports of it. Such a device is not made to stay: it is there while a
process has its descriptor, which is the machine's alone. So nothing has to be swept up, whoever is killed.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from polyvisor.host.network.tap import FLAGS, TUNSETIFF, exists
from polyvisor.model.faults import Unavailable, Unsupported
from polyvisor.model.host import Blueprint
from polyvisor.model.network import HostNic, bridged_mac
from polyvisor.ports.hypervisor import BridgedNic

_SIOCBRADDIF = 0x89A2
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFHWADDR, _ETHERNET = 0x8924, 1
_UP = 0x1
_NAME = b"plx%d"  # the kernel counts; names of our own bridge's devices begin otherwise


class HostNics:
    """Of one host."""

    def __init__(self, nics: Sequence[HostNic] = (), *, real: bool = True) -> None:
        self.known = tuple(nics)
        self._real = real

    def check(self, blueprint: Blueprint) -> None:
        """:raise Unsupported: we may make no device. :raise Unavailable: a NIC or its bridge is not there."""
        for nic in self.of(blueprint):
            if self._real and os.geteuid() != 0:
                raise Unsupported("nics: a NIC on a bridge of the host needs a server that is root", field="nics")
            if self._real and not is_bridge(nic.bridge):
                raise Unavailable("nics: the bridge is not there", field="nics", private=nic.bridge)

    def of(self, blueprint: Blueprint) -> tuple[BridgedNic, ...]:
        """Those that it has, in order. :raise Unavailable: one is not configured any more."""
        bridges = {nic.name: nic.bridge for nic in self.known}
        found = []
        macs = blueprint.spec.macs[1 if blueprint.spec.network else 0 :]
        for index, name in enumerate(blueprint.spec.bridged):
            if name not in bridges:
                raise Unavailable(f"nics: {name} is not configured on this host", field="nics", subject=name)
            own = macs[index] if index < len(macs) else ""
            found.append(BridgedNic(bridges[name], own or bridged_mac(blueprint.id, index)))
        return tuple(found)


def is_bridge(device: str) -> bool:
    """Whether there is a bridge of that name here."""
    return exists(device) and (Path("/sys/class/net") / device / "bridge").is_dir()


def open_bridged(nic: BridgedNic) -> int:
    """A descriptor of a new TAP device, up, on the NIC's bridge; the device is gone with the last copy of it.

    A bridge that was given no address has the lowest of its ports'. A device's follows from the guest's and is a high
    one: nobody's bridge gets another address because a machine came, and the same machine brings the same one back.

    :raise Unavailable: there is no such bridge, or we may not.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", _NAME, FLAGS))
        name = struct.unpack("16sH22x", answer)[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            index = socket.if_nametoindex(name.rstrip(b"\0").decode())
            address = b"\xfe" + bytes.fromhex(nic.mac.replace(":", ""))[1:]
            fcntl.ioctl(control, _SIOCSIFHWADDR, struct.pack("16sH6s16x", name, _ETHERNET, address))
            fcntl.ioctl(control, _SIOCBRADDIF, struct.pack("16si20x", nic.bridge.encode(), index))
            flags = struct.unpack("16sH22x", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", name)))[1]
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, flags | _UP))
    except OSError as error:
        os.close(fd)
        raise Unavailable("nics: the machine cannot be put on the bridge", private=f"{nic.bridge}: {error}") from error
    return fd
