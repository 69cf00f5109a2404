"""Sleepers: the devices of bridge-mode instances in standby, minded until somebody calls.

An instance that is to be woken keeps its TAP, its rules and its name while it sleeps. We hold the device that its
hypervisor had, answer ARP in its stead, and keep the TCP segments that come for it: they are put back before a
hypervisor takes the same descriptor over, so that the guest reads them as if it had never slept. We hold it while the
guest runs as well and do not look: what came between its last moment and its end is still there then, but for one frame
that the hypervisor may have read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from polyvisor.host.network import frames
from polyvisor.host.network.tap import attached, open_tap, unfilter
from polyvisor.model.faults import Unavailable
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Address

log = logging.getLogger("polyvisor.host")
_TUNSETOFFLOAD = 0x400454D0
_TUNATTACHFILTER = 0x401054D5
_TUNSETVNETHDRSZ = 0x400454D8
_HEADER = 10  # bytes before each frame, which say what is still to be computed or cut
_LARGEST = 1 << 17
_MOST = 1024  # segments that are kept for a sleeper: what its device's queue holds
_AT_A_TIME = 64
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15


@dataclass
class _Post:
    """One device. `minded`: we read it, and no hypervisor does."""

    device: str
    mac: bytes
    ip: bytes
    fd: int
    minded: bool = False
    held: dict[bytes, bytes] = field(default_factory=dict)


class Sleepers:
    """Every device of this host at which somebody may call. From the event loop only."""

    def __init__(self, knock: Callable[[InstanceId], None]) -> None:
        self._knock = knock
        self._posts: dict[InstanceId, _Post] = {}

    def __contains__(self, id: InstanceId) -> bool:
        return id in self._posts

    def minds(self, id: InstanceId) -> bool:
        """Whether we would hear who calls it."""
        post = self._posts.get(id)
        return post is not None and post.minded

    def mind(self, id: InstanceId, address: Address, device: str) -> None:
        """Nobody else reads the device from now on. :raise Unavailable: it is not there, or somebody does."""
        post = self._post(id, address, device)
        if post.minded:
            return
        try:
            fcntl.ioctl(post.fd, _TUNSETVNETHDRSZ, struct.pack("i", _HEADER))
            fcntl.ioctl(post.fd, _TUNSETOFFLOAD, 0)
            _filter(post)
        except OSError as error:
            self.close(id)
            raise Unavailable("the instance's network device cannot be minded", private=str(error)) from error
        post.minded = True
        asyncio.get_running_loop().add_reader(post.fd, self._read, id, post)

    def hand(self, id: InstanceId, address: Address, device: str) -> int:
        """The device's descriptor, for a hypervisor; it stays ours. What is kept comes first out of it, and stays kept
        until the guest is `awake`: a hypervisor that fails has read some of it.

        :raise Unavailable: it is not there, or somebody else has it.
        """
        post = self._post(id, address, device)
        self._leave(post)
        with contextlib.suppress(OSError), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            sock.bind((device, 0))
            for frame in post.held.values():
                sock.send(frame)
        return post.fd

    def awake(self, id: InstanceId) -> None:
        """Its guest runs."""
        if (post := self._posts.get(id)) is not None:
            post.held.clear()

    def turn_away(self, id: InstanceId) -> int:
        """It cannot be woken: who calls is told by a reset; how many segments there were."""
        post = self._posts.get(id)
        if post is None or not post.minded:
            return 0
        held, post.held = post.held, {}
        for frame in held.values():
            with contextlib.suppress(OSError):
                os.write(post.fd, bytes(_HEADER) + frames.refusal(frame[_HEADER:]))
        return len(held)

    def close(self, id: InstanceId) -> None:
        """Nobody minds it any more."""
        post = self._posts.pop(id, None)
        if post is not None:
            self._leave(post)
            os.close(post.fd)

    def close_all(self) -> None:
        """The server goes."""
        for id in list(self._posts):
            self.close(id)

    def _post(self, id: InstanceId, address: Address, device: str) -> _Post:
        post = self._posts.get(id)
        if post is not None and not attached(post.fd):  # somebody deleted it, and it was made anew
            self.close(id)
            post = None
        if post is None:
            fd = open_tap(device)
            os.set_blocking(fd, False)
            mac = bytes.fromhex(address.mac.replace(":", ""))
            post = self._posts[id] = _Post(device, mac, socket.inet_aton(address.ip), fd)
        return post

    def _leave(self, post: _Post) -> None:
        if post.minded:
            asyncio.get_running_loop().remove_reader(post.fd)
            post.minded = False
            with contextlib.suppress(OSError):
                unfilter(post.fd)

    def _read(self, id: InstanceId, post: _Post) -> None:
        for _ in range(_AT_A_TIME):
            try:
                frame = os.read(post.fd, _LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("%s: its network device is gone: %s", id, errno.errorcode.get(error.errno or 0, error))
                self.close(id)
                return
            self._heard(id, post, frame)

    def _heard(self, id: InstanceId, post: _Post, frame: bytes) -> None:
        answer = frames.answer(frame[_HEADER:], post.mac, post.ip)
        if answer is not None:
            with contextlib.suppress(OSError):
                os.write(post.fd, bytes(_HEADER) + answer)
            return
        key = frames.call(frame[_HEADER:], post.ip)
        if key is not None:
            if key in post.held or len(post.held) < _MOST:
                post.held[key] = frame
            self._knock(id)


def _filter(post: _Post) -> None:
    """The kernel drops most of what is of no interest; what it lets through is looked at all the same."""
    words = frames.program(post.ip)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *word) for word in words))
    fcntl.ioctl(post.fd, _TUNATTACHFILTER, struct.pack("HxxxxxxP", len(words), ctypes.addressof(code)))
