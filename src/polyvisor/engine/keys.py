"""API keys and sessions: what programs and people show instead of a password."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
from polyvisor.model.faults import Fault, Forbidden, Invalid, NotFound, Unauthenticated
from polyvisor.model.identity import ApiKey, Session, User
from polyvisor.model.ids import check_name
from polyvisor.model.principal import EVERYTHING, Action, Credential, Principal
from polyvisor.ports.store import Store

MAX_SESSION = timedelta(days=30)


class KeysEngine:
    """API keys of users."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    async def create(
        self, principal: Principal, name: str, *, project: str = "", scopes: frozenset[Action] | None = None,
        expires: datetime | None = None,
    ) -> tuple[str, ApiKey]:  # fmt: skip
        """A key with which the caller acts in a project, and its record. The key is told this once.

        It does what its user may when it is used, within `scopes`; a key made with a key has no more than that one.
        :raise Invalid, NotFound: :raise Forbidden: a scope that the caller does not hold there.
        """
        _require_keys(principal)
        check_name(name)
        now = self._clock()
        if expires is not None and expires <= now:
            raise Invalid("expires: is in the past", field="expires")
        if principal.until is not None:  # what a key makes does not outlive it
            expires = min(expires or principal.until, principal.until)
        async with self._store.write() as unit:
            place = await find_project(unit, project or principal.project)
            if not principal.operator and not principal.reach.get(place.id):
                raise NotFound(f"no project {project[:80]!r}", field="project", subject=project)
            for action in sorted(scopes or ()):
                if not principal.may(action, place.id):
                    raise Forbidden(f"nobody passes on what he does not hold: {action}", field="scopes")
            if scopes is None and principal.actions != EVERYTHING:
                scopes = principal.actions
            key, record = new_key(name, place.id, now, operator=principal.operator and principal.user is None)
            record = replace(record, user=principal.user, scopes=scopes, expires=expires)
            await unit.identities.add_key(record)
        return key, record

    async def list(self, principal: Principal) -> Sequence[ApiKey]:
        """The caller's own; all of them for an operator, oldest first. :raise Forbidden: as for making one."""
        _require_keys(principal)
        async with self._store.read() as unit:
            return [key for key in await unit.identities.keys() if _is_ones_own(principal, key)]

    async def delete(self, principal: Principal, id: str) -> None:
        """It holds no more. :raise NotFound: :raise Forbidden:"""
        _require_keys(principal)
        async with self._store.write() as unit:
            found = [key for key in await unit.identities.keys() if id in (key.id, key.name)]
            own = [key for key in found if _is_ones_own(principal, key)]
            if len(own) != 1 and not any(key.id == id for key in own):
                raise NotFound(f"no key {id[:80]!r}", field="key", subject=id)
            await unit.identities.remove_key(next((key.id for key in own if key.id == id), own[0].id))


def _require_keys(principal: Principal) -> None:
    """A credential with less than all neither makes others nor takes them away, unless it says so.

    :raise Forbidden:
    """
    if Action.KEY_CREATE not in principal.actions:
        raise Forbidden("this credential may not create keys")


def _is_ones_own(principal: Principal, key: ApiKey) -> bool:
    if principal.operator:
        return True
    if principal.user is not None:
        return key.user == principal.user
    return key.user is None and not key.operator and key.project == principal.project


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
