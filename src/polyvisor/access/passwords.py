"""Passwords: slow hashes, of which checking one is nobody's emergency.

A check takes cores and 64 MiB for a while. There is one thread that begins them, so guesses never have more, and it
gives way to what else this server does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_NICE = 5  # a third of what others get is left to it where all cores are busy


def hash_password(password: str) -> str:
    """An argon2id hash. Slow on purpose: call it in a thread."""
    return PasswordHasher().hash(password.encode("utf-8", "surrogatepass"))


class Checker:
    """Says whether passwords are right, one after the other."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._decoy = ""
        self._thread = ThreadPoolExecutor(1, "passwords", _give_way)

    async def matches(self, hashed: str | None, given: bytes) -> bool:
        """Whether that is the password. Without a hash it is not, which takes as long to find out."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._matches, hashed, given)

    def _matches(self, hashed: str | None, given: bytes) -> bool:
        if not self._decoy:  # made whether it will be needed or not, so that its making tells nothing
            self._decoy = self._hasher.hash(secrets.token_hex(8))
        try:
            return self._hasher.verify(self._decoy if hashed is None else hashed, given)
        except (VerificationError, InvalidHashError):
            return False


def _give_way() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # this thread's, and of those it starts
