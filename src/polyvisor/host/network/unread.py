"""How much of what was sent on a loopback connection its other end has not read yet, from the kernel (sock_diag(7))."""

from __future__ import annotations

import contextlib
import socket
import struct

_BY_FAMILY, _REQUEST = 20, 1
_LISTENS = 10  # TCP_LISTEN
_HEADER = struct.Struct("=IHHII")
_ASK = struct.Struct("=BBBBI")
_ANY_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # nor any interface
_HERE = socket.inet_aton("127.0.0.1") + bytes(12)
_QUEUES = _HEADER.size + 4 + 48 + 4  # the answer's own header, the socket's name, a timer


def unread(port: int, source: int) -> int | None:
    """Bytes that wait in the end at `port` of the connection from `source`, both of 127.0.0.1.

    None: there is no such connection, or this kernel does not tell.
    """
    name = struct.pack("!HH", port, source) + _HERE + _HERE + _ANY_COOKIE
    ask = _ASK.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + name
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as kernel:
        kernel.settimeout(1)
        kernel.send(_HEADER.pack(_HEADER.size + len(ask), _BY_FAMILY, _REQUEST, 1, 0) + ask)
        answer = kernel.recv(4096)
        is_one = len(answer) >= _QUEUES + 4 and _HEADER.unpack_from(answer)[1] == _BY_FAMILY
        if is_one and answer[_HEADER.size + 1] != _LISTENS:  # of a connection that is gone, who listens is told
            (waiting,) = struct.unpack_from("=I", answer, _QUEUES)
            return int(waiting)
    return None
