"""Framing of the exec and console sockets.

Binary messages carry one channel byte and data; text messages carry JSON. Client to server: channel 0 is stdin;
text is first an `ExecRequest`, then any `ExecOrder`: `{"eof":true}`, `{"resize":[rows,cols]}`, `{"signal":n}`. Server
to client: channel 1 stdout, 2 stderr; text is an `ExecResult` or a `Problem`, and is the last message. A console
socket carries bare binary data both ways. A message that is none of these ends the socket with a `Problem`.
"""

from __future__ import annotations

STDIN = 0
STDOUT = 1
STDERR = 2
CHUNK = 32 * 1024


def pack(channel: int, data: bytes) -> bytes:
    """One binary message."""
    return bytes((channel,)) + data


def unpack(message: bytes) -> tuple[int, bytes]:
    """Channel and data of a binary message. :raise ValueError: it is empty."""
    if not message:
        raise ValueError("an empty message has no channel")
    return message[0], message[1:]
