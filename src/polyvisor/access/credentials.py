"""Credentials: how keys and tokens are made, and how these and passwords are recognised."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from polyvisor.access.attempts import Attempts
from polyvisor.access.pace import Pace
from polyvisor.access.passwords import Checker
from polyvisor.access.tokens import read_token
from polyvisor.model.faults import NotFound, Throttled, Unauthenticated
from polyvisor.model.identity import ApiKey, Grant, Project, Session, User
from polyvisor.model.ids import KeyId, ProjectId, UserId, mint
from polyvisor.model.principal import EVERYTHING, Action, Bearer, Credential, Principal, Reach
from polyvisor.ports.store import Store, Unit

KEY_PREFIX = "pv_"
SESSION_PREFIX = "pvs_"
_SHOWN = 10  # characters of a key that lists show
_USED_EVERY = timedelta(minutes=1)
_REMEMBERED = 1000  # passwords that were verified a moment ago
_MEMORY = timedelta(minutes=1)


def key_digest(key: str) -> str:
    """What is stored of a key. Keys are random, so a plain hash is enough and equality needs no secret time."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(
    name: str, project: ProjectId, now: datetime, *, operator: bool = False, prefix: str = KEY_PREFIX
) -> tuple[str, ApiKey]:
    """A fresh key, shown once, and the record of it."""
    key = prefix + secrets.token_urlsafe(32)
    return key, ApiKey(KeyId(mint()), name, project, key[:_SHOWN], key_digest(key), now, operator)


def new_session(user: UserId, token: str, now: datetime, lifetime: timedelta) -> Session:
    """The record of a session whose token is `token`."""
    return Session(KeyId(mint()), user, key_digest(token), now, now + lifetime)


def new_token() -> str:
    """A fresh session token."""
    return SESSION_PREFIX + secrets.token_urlsafe(32)


class Doorkeeper:
    """Turns credentials into principals. Who is refused is told so when the pace of its address allows."""

    def __init__(
        self, store: Store, clock: Callable[[], datetime], secret: str = "", attempts: Attempts | None = None,
        pace: Pace | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._secret = secret  # what tokens are signed with; without one none is believed
        self._attempts = attempts or Attempts()
        self._pace = pace or Pace()
        self._logins = Pace(burst=5, every=0.02)
        self._checker = Checker()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._used: dict[KeyId, datetime] = {}
        self._salt = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, tuple[str, datetime]] = OrderedDict()

    async def authenticate(self, credential: Credential | None) -> Principal:
        """The caller. :raise Unauthenticated: without saying which part was wrong. :raise Throttled:"""
        if credential is None:
            raise Unauthenticated()
        if credential.key.startswith(SESSION_PREFIX):
            return await self.by_session(credential.key, credential.source)
        if credential.key:
            return await self._by_key(credential.key, credential.source)
        user = await self.verify(credential)
        async with self._store.read() as unit:
            return await admitted(unit, user, credential.source)

    @asynccontextmanager
    async def _unhurried(self, source: str) -> AsyncIterator[None]:
        try:
            yield
        except (Unauthenticated, Throttled):
            await self._pace.wait(source)
            raise

    async def _by_key(self, key: str, source: str) -> Principal:
        digest, now = key_digest(key), self._clock()
        async with self._unhurried(source), self._store.read() as unit:
            found = await unit.identities.key_by_digest(digest)
            if found is None or not hmac.compare_digest(found.digest, digest):
                raise Unauthenticated()
            if found.expires is not None and found.expires <= now:
                raise Unauthenticated("the API key has expired")
            if not found.fence.lets(source):
                raise Unauthenticated()
            scopes = EVERYTHING if found.scopes is None else found.scopes
            if found.user is not None:
                principal = await admitted(unit, await unit.identities.user(found.user), source)
                principal = principal.limited(scopes).in_project(found.project)
            else:
                reach = {} if found.operator else dict.fromkeys(await _below(unit, found.project), EVERYTHING)
                principal = Principal(found.name, found.project, scopes, found.operator, reach, source=source)
            principal = replace(principal, until=found.expires, fence=found.fence)
        if found.used is None or now - found.used > _USED_EVERY:
            self._used[found.id] = now
        return principal

    async def note_uses(self) -> None:
        """Write down which keys were used lately. Nobody who shows one waits for that."""
        used, self._used = self._used, {}
        if used:
            async with self._store.write() as unit:
                for id, at in used.items():
                    await unit.identities.used_key(id, at)

    async def by_session(self, token: str, source: str) -> Principal:
        """Who logged in and was given that token. :raise Unauthenticated:"""
        async with self._unhurried(source), self._store.read() as unit:
            found = await unit.identities.session_by_digest(key_digest(token))
            if found is None or found.expires <= self._clock():
                raise Unauthenticated()
            return await admitted(unit, await unit.identities.user(found.user), source)

    async def turn(self, source: str) -> None:
        """Until a login from there may begin: to be asked before it is read, so that many at once come one by one."""
        await self._logins.wait(source)

    async def verify(self, credential: Credential) -> User:
        """The user whose name and password these are. :raise Unauthenticated: :raise Throttled:"""
        async with self._unhurried(credential.source):
            self._attempts.check(credential.name, credential.source)  # before anything is looked up
            return await self._verified_user(credential)

    async def _verified_user(self, credential: Credential) -> User:
        name, source = credential.name, credential.source
        async with self._store.read() as unit:
            user = await unit.identities.user_named(name) if "\0" not in name else None
        given = credential.password.encode("utf-8", "surrogatepass")
        mark = hmac.digest(self._salt, name.encode("utf-8", "surrogatepass") + b"\0" + given, "sha256")
        if user is not None and not user.disabled and self._was_verified(mark, user.password):
            return user
        async with self._turns.setdefault(source, asyncio.Lock()):  # an address has one place in the queue
            self._attempts.check(name, source)  # others may have failed meanwhile
            is_right = await self._checker.matches(user.password if user else None, given)
            if user is None or not is_right or user.disabled:
                self._attempts.failed(name, source)
                raise Unauthenticated()
        self._attempts.succeeded(name, source)
        self._verified[mark] = user.password, self._clock()
        while len(self._verified) > _REMEMBERED:
            self._verified.popitem(last=False)
        return user

    def _was_verified(self, mark: bytes, password: str) -> bool:
        """Whether it was, a moment ago: a client of Basic authentication sends its password with every request."""
        known = self._verified.get(mark)
        return known is not None and known[0] == password and self._clock() - known[1] < _MEMORY

    async def bearer(self, token: str, source: str = "") -> Bearer:
        """Whom a signed token names. A user of ours is that user; any other name acts as the operator, since only who
        has the installation's secret can sign. What was signed for a user who was removed since is worth nothing.

        :raise Unauthenticated: without saying what was wrong with it.
        """
        async with self._unhurried(source):
            return await self._bearer(token, source)

    async def _bearer(self, token: str, source: str) -> Bearer:
        if not self._secret:
            raise Unauthenticated("invalid token")
        claims = read_token(token, self._secret)
        name = str(claims.get("sub", ""))
        async with self._store.read() as unit:
            known = bool(name) and "\0" not in name
            removed = await unit.identities.removed_user(name) if known else None
            if removed is not None and not _is_since(claims.get("iat"), removed):
                raise Unauthenticated("invalid token")
            user = await unit.identities.user_named(name) if known else None
            if user is not None:
                return Bearer(await admitted(unit, user, source), claims)
            root = next((one for one in await unit.identities.projects() if one.parent is None), None)
        if root is None:
            raise Unauthenticated("invalid token")
        return Bearer(Principal(name or "token", root.id, EVERYTHING, operator=True, source=source), claims)


def _is_since(issued: object, moment: datetime) -> bool:
    """Whether a token says that it was issued later, in whole seconds."""
    return isinstance(issued, int | float) and issued > moment.timestamp()


async def principal_of(unit: Unit, user: User, source: str = "") -> Principal:
    """A user as a caller, with all that was granted to it."""
    reach: Reach = {}
    if not user.operator:
        granted = await unit.identities.grants(user.id)
        reach = reach_of(granted, await unit.identities.below({grant.project for grant in granted}))
    return Principal(user.name, user.project, EVERYTHING, user.operator, reach, user.id, source)


async def admitted(unit: Unit, user: User, source: str) -> Principal:
    """The same, of who comes in now. :raise Unauthenticated: the user is disabled."""
    if user.disabled:
        raise Unauthenticated()
    return await principal_of(unit, user, source)


async def as_now(unit: Unit, principal: Principal) -> Principal:
    """The same caller with what is granted to it now: a connection may last longer than a right.

    :raise Unauthenticated: it was a user who is gone or disabled.
    """
    if principal.user is None:
        return principal
    try:
        now = await admitted(unit, await unit.identities.user(principal.user), principal.source)
    except NotFound as error:
        raise Unauthenticated() from error
    now = now.limited(principal.actions).in_project(principal.project)
    return replace(now, until=principal.until, fence=principal.fence)


def reach_of(granted: Iterable[Grant], below: Iterable[tuple[ProjectId, ProjectId | None]]) -> Reach:
    """What grants allow where: on their own project and on all below it."""
    held: dict[ProjectId, frozenset[Action]] = {}
    for grant in granted:
        held[grant.project] = held.get(grant.project, frozenset()) | {grant.action}
    parents = dict(below)
    full: dict[ProjectId, frozenset[Action]] = {}

    def of(project: ProjectId) -> frozenset[Action]:
        if project not in full:
            parent = parents.get(project)
            above = of(parent) if parent is not None and parent in parents else frozenset()
            full[project] = held.get(project, frozenset()) | above
        return full[project]

    for project in parents:
        of(project)
    return full


async def _below(unit: Unit, project: ProjectId) -> list[ProjectId]:
    return [id for id, _ in await unit.identities.below([project])]


async def find_project(unit: Unit, key: str) -> Project:
    """By id, or by the names on the way from below the root, with `/` between them; "" and "/" are the root.

    :raise NotFound:
    """
    tree = {one.id: one for one in await unit.identities.projects()}
    if ProjectId(key) in tree:
        return tree[ProjectId(key)]
    here = next((one for one in tree.values() if one.parent is None), None)
    words = [word for word in key.split("/") if word]
    if here is not None and words[:1] == [here.name]:
        words = words[1:]
    for word in words:
        here = next((one for one in tree.values() if here and one.parent == here.id and one.name == word), None)
    if here is None:
        raise NotFound(f"no project {key[:80]!r}", field="project", subject=key)
    return here
