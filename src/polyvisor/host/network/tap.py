"""TAP devices by ioctl."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from polyvisor.model.faults import Unavailable

TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_TUNDETACHFILTER = 0x401054D6
_FILTER = 16  # bytes that describe one
_IFF_PERSIST = 0x0800
FLAGS = 0x0002 | 0x1000 | 0x4000  # TAP, no packet information, virtio headers
_REQUEST = "16sH22x"


def exists(device: str) -> bool:
    """Whether there is a device of that name in our network namespace; `/sys` may show another one's."""
    try:
        socket.if_nametoindex(device)
    except OSError:
        return False
    return True


def open_tap(name: str) -> int:
    """A descriptor of the TAP device `name`, to be passed to a hypervisor.

    The kernel would make a device that is not there, one that leads nowhere. Only those made to stay are taken.

    :raise Unavailable: there is no such device.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        if not exists(name):
            raise Unavailable("the instance's network device is missing", private=name)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack(_REQUEST, name.encode(), FLAGS))
        answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(struct.calcsize(_REQUEST)))
        if not struct.unpack(_REQUEST, answer)[1] & _IFF_PERSIST:
            raise Unavailable("the instance's network device is missing", private=name)
        unfilter(fd)  # a server that was killed may have left one on the device
    except OSError as error:
        os.close(fd)
        raise Unavailable("the instance's network device cannot be opened", private=f"{name}: {error}") from error
    except Unavailable:
        os.close(fd)
        raise
    return fd


def unfilter(fd: int) -> None:
    """All that is sent to the device comes out of this descriptor again. :raise OSError:"""
    fcntl.ioctl(fd, _TUNDETACHFILTER, bytes(_FILTER))


def attached(fd: int) -> bool:
    """Whether the device that this descriptor was opened for is still there."""
    try:
        fcntl.ioctl(fd, _TUNGETIFF, bytes(struct.calcsize(_REQUEST)))
    except OSError:
        return False
    return True
