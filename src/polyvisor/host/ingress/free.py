"""Whether a port of this host can be had, found by taking it for a moment."""

from __future__ import annotations

import errno
import socket

from polyvisor.model.faults import Busy, Forbidden, Unavailable


def probe(listen: str, port: int) -> None:
    """Caddy itself would share a port with another process of its uid, and not say so.

    :raise Busy: somebody else has it. :raise Forbidden: it needs rights. Of both, `subject` is its number.
    :raise Unavailable: there is no such address.
    """
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((listen, port))
            sock.listen(1)
        except OSError as error:
            if error.errno == errno.EACCES:
                raise Forbidden(f"port {port} of this host needs rights that it has not", subject=str(port)) from error
            if error.errno == errno.EADDRINUSE:
                raise Busy(f"port {port} of this host is taken", subject=str(port)) from error
            raise Unavailable(f"this host cannot listen at {listen}", private=repr(error)) from error
