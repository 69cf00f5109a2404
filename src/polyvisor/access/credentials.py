"""Credentials: how keys are made, hashed and recognised."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from polyvisor.model.faults import Unauthenticated
from polyvisor.model.ids import KeyId, ProjectId, mint
from polyvisor.model.principal import Action, ApiKey, Credential, Principal, User
from polyvisor.ports.store import Store

KEY_PREFIX = "pv_"
_SHOWN = 10  # characters of a key that lists show


def key_digest(key: str) -> str:
    """What is stored of a key. Keys are random, so a plain hash is enough and equality needs no secret time."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(name: str, project: ProjectId, now: datetime, *, operator: bool = False) -> tuple[str, ApiKey]:
    """A fresh key, shown once, and the record of it."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, ApiKey(KeyId(mint()), name, project, key[:_SHOWN], key_digest(key), now, operator)


def hash_password(password: str) -> str:
    """An argon2id hash."""
    return PasswordHasher().hash(password)


class Doorkeeper:
    """Turns credentials into principals."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._hasher = PasswordHasher()
        self._decoy = ""

    async def authenticate(self, credential: Credential | None) -> Principal:
        """The caller. :raise Unauthenticated: without saying which part was wrong."""
        if credential is None:
            raise Unauthenticated()
        if credential.key:
            return await self._by_key(credential.key)
        return await self._by_password(credential)

    async def _by_key(self, key: str) -> Principal:
        digest = key_digest(key)
        async with self._store.read() as unit:
            found = await unit.identities.key_by_digest(digest)
        if found is None or not hmac.compare_digest(found.digest, digest):
            raise Unauthenticated()
        if found.expires is not None and found.expires <= self._clock():
            raise Unauthenticated("the API key has expired")
        return Principal(found.name, found.project, frozenset(Action), found.operator)

    async def _by_password(self, credential: Credential) -> Principal:
        async with self._store.read() as unit:
            user: User | None = await unit.identities.user(credential.name)
        if not self._decoy:  # made whether it will be needed or not, so that its making tells nothing
            self._decoy = await asyncio.to_thread(self._hasher.hash, secrets.token_hex(8))
        try:  # an unknown name costs the same time as a wrong password
            known = user.password if user else self._decoy
            given = credential.password.encode("utf-8", "surrogatepass")
            await asyncio.to_thread(self._hasher.verify, known, given)  # it is slow on purpose
        except (VerificationError, InvalidHashError) as error:
            raise Unauthenticated() from error
        if user is None:
            raise Unauthenticated()
        return Principal(user.name, user.project, frozenset(Action), user.operator)
