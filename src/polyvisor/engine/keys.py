"""API keys and sessions: what programs and people show instead of a password."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from polyvisor.access.credentials import (
    KEY_PREFIX,
    Doorkeeper,
    find_project,
    key_digest,
    new_key,
    new_session,
    new_token,
)
from polyvisor.engine.audit import AuditEngine
from polyvisor.engine.users import find_user, rule_over
from polyvisor.model.faults import Fault, Forbidden, Invalid, NotFound, Unauthenticated
from polyvisor.model.fence import NO_FENCE, Fence
from polyvisor.model.identity import ApiKey, Session, User
from polyvisor.model.ids import ProjectId, check_name
from polyvisor.model.principal import EVERYTHING, Action, Credential, Principal
from polyvisor.ports.store import Store, Unit

MAX_SESSION = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What a key is to be: whose (empty: the caller's), where it acts (empty: where that one does), what it may do
    (None: all that its user may), until when and from where it holds, and how its text begins."""

    name: str
    project: str = ""
    scopes: frozenset[Action] | None = None
    expires: datetime | None = None
    user: str = ""
    fence: Fence = NO_FENCE
    prefix: str = KEY_PREFIX


class KeysEngine:
    """API keys of users."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    async def create(self, principal: Principal, asked: KeyRequest) -> tuple[str, ApiKey]:
        """A key and its record. The key is told this once.

        It does what its user may when it is used, within `scopes`; a key made with a key has no more than that one.
        :raise Invalid, NotFound: :raise Forbidden: a scope that the caller does not hold there, or another user who
        may do what the caller may not.
        """
        _require_keys(principal)
        check_name(asked.name)
        expires, fence = self._end(principal, asked.expires), _fence(principal, asked.fence)
        async with self._store.write() as unit:
            owner = await _other(unit, principal, asked.user)
            home = owner.project if owner is not None and not asked.project else principal.project
            place = await find_project(unit, asked.project or home)
            if owner is None and place.id != principal.project and not _may_act(principal, place.id):
                raise NotFound(f"no project {asked.project[:80]!r}", field="project", subject=asked.project)
            scopes = _scopes(principal, asked.scopes, place.id)
            for_nobody = principal.operator and principal.user is None and owner is None
            key, record = new_key(asked.name, place.id, self._clock(), operator=for_nobody, prefix=asked.prefix)
            user = principal.user if owner is None else owner.id
            record = replace(record, user=user, scopes=scopes, expires=expires, fence=fence)
            await unit.identities.add_key(record)
        return key, record

    async def update(
        self, principal: Principal, id: str, *, name: str = "", expires: datetime | None, fence: Fence
    ) -> ApiKey:
        """Another end, another fence; the key itself stays. :raise NotFound, Forbidden, Invalid:"""
        _require_keys(principal)
        async with self._store.write() as unit:
            key = await self._own(unit, principal, id)
            if expires != key.expires:
                expires = self._end(principal, expires)
            fence = key.fence if fence == key.fence else _fence(principal, fence)
            key = replace(key, name=check_name(name or key.name), expires=expires, fence=fence)
            await unit.identities.save_key(key)
        return key

    def _end(self, principal: Principal, expires: datetime | None) -> datetime | None:
        if expires is not None and expires <= self._clock():
            raise Invalid("expires: is in the past", field="expires")
        if principal.until is not None:  # what a key makes does not outlive it
            return min(expires or principal.until, principal.until)
        return expires

    async def list(self, principal: Principal) -> Sequence[ApiKey]:
        """The caller's own and those of users whom it may alter; all for an operator, oldest first.

        :raise Forbidden: as for making one.
        """
        _require_keys(principal)
        async with self._store.read() as unit:
            return await _ones_own(unit, principal, await unit.identities.keys())

    async def delete(self, principal: Principal, id: str) -> None:
        """It holds no more. :raise NotFound: :raise Forbidden:"""
        _require_keys(principal)
        async with self._store.write() as unit:
            await unit.identities.remove_key((await self._own(unit, principal, id)).id)

    async def _own(self, unit: Unit, principal: Principal, id: str) -> ApiKey:
        found = [key for key in await unit.identities.keys() if id in (key.id, key.name)]
        own = await _ones_own(unit, principal, found)
        if len(own) != 1 and not any(key.id == id for key in own):
            raise NotFound(f"no key {id[:80]!r}", field="key", subject=id)
        return next((key for key in own if key.id == id), own[0])


def _require_keys(principal: Principal) -> None:
    """A credential with less than all neither makes others nor takes them away, unless it says so.

    :raise Forbidden:
    """
    if Action.KEY_CREATE not in principal.actions:
        raise Forbidden("this credential may not create keys")


def _may_act(principal: Principal, project: ProjectId) -> bool:
    return principal.operator or bool(principal.reach.get(project))


def _scopes(principal: Principal, asked: frozenset[Action] | None, place: ProjectId) -> frozenset[Action] | None:
    for action in sorted(asked or ()):
        if not principal.may(action, place):
            raise Forbidden(f"nobody passes on what he does not hold: {action}", field="scopes")
    return principal.actions if asked is None and principal.actions != EVERYTHING else asked


def _fence(principal: Principal, asked: Fence) -> Fence:
    """What a key makes holds from where it does itself. :raise Forbidden:"""
    if principal.fence != NO_FENCE and asked not in (NO_FENCE, principal.fence):
        raise Forbidden("this credential holds from some addresses only, and so do the keys it makes", field="allow")
    return asked if principal.fence == NO_FENCE else principal.fence


async def _other(unit: Unit, principal: Principal, key: str) -> User | None:
    """Somebody else, over whom the caller rules; None: it is the caller's own matter. :raise NotFound, Forbidden:"""
    user = await find_user(unit, key) if key else None
    if user is None or user.id == principal.user:
        return None
    await rule_over(unit, principal, user, Action.USER_ALTER)
    return user


async def _ones_own(unit: Unit, principal: Principal, keys: Sequence[ApiKey]) -> list[ApiKey]:
    """Those that are the caller's matter."""
    if principal.operator:
        return list(keys)
    if principal.user is None:
        return [key for key in keys if key.user is None and not key.operator and key.project == principal.project]
    ruled = {principal.user}
    if principal.may_somewhere(Action.USER_ALTER):
        for id in {key.user for key in keys if key.user is not None} - ruled:
            with suppress(Forbidden, NotFound):
                await rule_over(unit, principal, await unit.identities.user(id), Action.USER_ALTER)
                ruled.add(id)
    return [key for key in keys if key.user in ruled]


class SessionsEngine:
    """Logging in and out."""

    def __init__(self, store: Store, clock: Callable[[], datetime], door: Doorkeeper, audit: AuditEngine) -> None:
        self._store = store
        self._clock = clock
        self._door = door
        self._audit = audit

    async def turn(self, source: str) -> None:
        """Until a login from there may begin; see Doorkeeper."""
        await self._door.turn(source)

    async def login(
        self, credential: Credential, lifetime: timedelta = timedelta(hours=12), *, token: str = ""
    ) -> tuple[str, Session, User]:
        """A session of the user whose name and password these are: its token, told this once, and its record.

        `token`: a random one in a dialect's own form. :raise Unauthenticated: :raise Throttled: :raise Invalid:
        """
        if not timedelta(seconds=1) <= lifetime <= MAX_SESSION:
            raise Invalid("lifetime: must be 1 second to 30 days", field="lifetime")
        try:
            user = await self._door.verify(credential)
        except Fault as fault:
            self._audit.note_refused(credential, fault)
            raise
        token = token or new_token()
        session = new_session(user.id, token, self._clock(), lifetime)
        async with self._store.write() as unit:
            now = await unit.identities.user(user.id)
            if now.disabled or now.password != user.password:  # while it was looked at
                raise Unauthenticated()
            await unit.identities.add_session(session)
        self._audit.note(user.name, credential.source, "session.login", project=user.project, subject=user.id)
        return token, session, user

    async def caller(self, token: str, source: str = "") -> Principal:
        """Who logged in and was given that token, or whose API key it is. :raise Unauthenticated:"""
        if token.startswith(KEY_PREFIX):
            return await self._door.authenticate(Credential(key=token, source=source))
        return await self._door.by_session(token, source)

    async def renew(self, token: str, lifetime: timedelta, *, fresh: str = "") -> tuple[str, Session]:
        """Another token instead of one that still holds, which is gone at once.

        :raise NotFound: nobody has that token. :raise Unauthenticated: it has expired.
        """
        async with self._store.write() as unit:
            found = await unit.identities.session_by_digest(key_digest(token))
            if found is None:
                raise NotFound("there is no such session")
            await unit.identities.remove_session(found.digest)
            is_over = found.expires <= self._clock()
            fresh = fresh or new_token()
            session = new_session(found.user, fresh, self._clock(), lifetime)
            if not is_over:
                await unit.identities.add_session(session)
        if is_over:
            raise Unauthenticated("the session has expired")
        return fresh, session

    async def logout(self, token: str) -> None:
        """It holds no more, if it ever did."""
        async with self._store.write() as unit:
            found = await unit.identities.session_by_digest(key_digest(token))
            if found is None:
                return
            user = await unit.identities.user(found.user)
            await unit.identities.remove_session(found.digest)
        self._audit.note(user.name, "", "session.logout", project=user.project, subject=user.id)

    async def tick(self) -> None:
        """Write down which keys were used."""
        await self._door.note_uses()

    async def prune(self) -> int:
        """Forget those that have expired; how many there were."""
        async with self._store.write() as unit:
            return await unit.identities.end_sessions(before=self._clock() - timedelta(days=1))
