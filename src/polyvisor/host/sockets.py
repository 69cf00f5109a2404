"""Unix sockets in directories whose paths may be longer than a unix address, which holds 107 bytes."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def connect_unix(path: Path) -> socket.socket:
    """A connected socket. :raise OSError: nobody listens."""
    folder, sock = _near(path)
    try:
        sock.setblocking(False)
        sock.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock


def listen_unix(path: Path, backlog: int = 1) -> socket.socket:
    """A listening socket at `path`, to be handed to a child, so that nobody has to wait for it to appear."""
    path.unlink(missing_ok=True)
    folder, sock = _near(path)
    try:
        sock.bind(f"/proc/self/fd/{folder}/{path.name}")
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock


def _near(path: Path) -> tuple[int, socket.socket]:
    """A descriptor of the directory, by whose short name it is reached, and a socket."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
