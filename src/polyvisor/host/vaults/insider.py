"""Run by path, in a process of its own: it enters the namespaces that it is given, and makes sockets there for whoever
holds the other end of its own. It ends with that.

A socket belongs to the network namespace that it was made in, whoever uses it. A thread of the server's cannot enter
another user namespace; so this one does, and it does nothing else.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys

_USER, _NET = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
_SO_MARK = 36


def _enter(fd: int, kind: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    os.close(fd)


def main(line: int, user: int, net: int, mark: int) -> None:
    """Until the line is cut."""
    _enter(user, _USER)
    _enter(net, _NET)
    with socket.socket(fileno=line) as asked:
        while asked.recv(1):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
                made.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
                socket.send_fds(asked, [b"."], [made.fileno()])


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:5]))
