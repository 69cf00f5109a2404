"""Records that are there whole or not at all, and the fault behind what could not be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from polyvisor.model.faults import Internal, NoCapacity


def write_record(path: Path, facts: dict[str, Any], *, durable: bool = True) -> None:
    """Put a record there: under another name, then renamed. `durable`: also if the host goes down right after, which
    takes its time. :raise NoCapacity:"""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w") as file:
            json.dump(facts, file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
        if durable:
            sync(path.parent)
    except OSError as error:
        raise full(error) from error


def read_record(path: Path) -> dict[str, Any] | None:
    """The record; None: there is none. :raise Internal: there is one that says nothing."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise Internal(private=f"{path}: {error!r}") from error
    return facts


def write_private(path: Path, data: bytes) -> None:
    """A file that only we may read, in the place of what was there."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def sync(path: Path) -> None:
    """The bytes of that file, or the names in that directory, outlast a loss of power."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def full(error: Exception) -> Exception:
    """The fault behind a failed write: a full disk is the host's lack of room, not our mistake."""
    words = getattr(error, "private", str(error))
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) or "No space left" in words:
        return NoCapacity("the host's disk is full, or the file would be too large for it", private=words)
    return error if isinstance(error, Internal) else Internal(private=words)
