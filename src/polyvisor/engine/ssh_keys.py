"""SSH keys: added by their owners, shown by who comes to the gateway, and what they let one into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from polyvisor.access.ssh import read_public_key
from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.owners import owner_now, owner_of
from polyvisor.model.faults import Exists, Forbidden, NotFound, OverQuota, Unauthenticated
from polyvisor.model.fence import NO_FENCE
from polyvisor.model.ids import InstanceId
from polyvisor.model.principal import Action, Principal
from polyvisor.model.ssh import MOST_COMMENT, SshKey
from polyvisor.model.task import Owner
from polyvisor.ports.store import Store, Unit

_MOST = 1000  # of one owner


class SshKeysEngine:
    """Keys of users; and of API keys that are nobody's."""

    def __init__(self, store: Store, clock: Callable[[], datetime], instances: InstancesEngine) -> None:
        self._store = store
        self._clock = clock
        self._instances = instances

    async def add(self, principal: Principal, public_key: str, comment: str = "") -> SshKey:
        """The caller's from now on. It may do in the gateway what the caller may when it is shown, and no more than the
        credential that it was added with.

        :raise Invalid: naming `public_key`. :raise Exists: the caller has it. :raise Forbidden: by that credential.
        """
        self._require(principal)
        public, fingerprint, said = read_public_key(public_key)
        owner = owner_of(principal)
        key = SshKey(owner, fingerprint, public, (comment or said)[:MOST_COMMENT], self._clock(), principal.until)
        async with self._store.write() as unit:
            own = [one for one in await unit.ssh_keys.all() if _same(one.owner, owner)]
            if any(one.fingerprint == fingerprint for one in own):
                raise Exists("public_key: is among your keys", field="public_key", subject=fingerprint)
            if len(own) >= _MOST:
                raise OverQuota(f"public_key: nobody has more than {_MOST} keys", field="public_key")
            return replace(key, number=await unit.ssh_keys.add(key))

    async def list(self, principal: Principal) -> Sequence[SshKey]:
        """The caller's, oldest first; everybody's for an operator."""
        async with self._store.read() as unit:
            return await self._seen(unit, principal)

    async def remove(self, principal: Principal, number: int) -> SshKey:
        """Whoever is connected by it is left alone. :raise NotFound: also when it is somebody else's."""
        self._require(principal)
        async with self._store.write() as unit:
            found = [key for key in await self._seen(unit, principal) if key.number == number]
            if not found:
                raise NotFound(f"no SSH key {number}", field="key", subject=str(number))
            await unit.ssh_keys.remove(number)
        return found[0]

    async def _seen(self, unit: Unit, principal: Principal) -> Sequence[SshKey]:
        keys = await unit.ssh_keys.all()
        return keys if principal.operator else [key for key in keys if _same(key.owner, owner_of(principal))]

    def _require(self, principal: Principal) -> None:
        """As for API keys: what is made may last longer than what it is made with. :raise Forbidden:"""
        if Action.KEY_CREATE not in principal.actions:
            raise Forbidden("this credential may not create keys")
        if principal.fence != NO_FENCE:
            raise Forbidden("this credential holds from some addresses only, and an SSH key would from all")

    # -- for the gateway -----------------------------------------------------------------------------------------

    async def owners(self, fingerprint: str, source: str) -> Sequence[Principal]:
        """Who may come in with that key now. It proves nothing: several may have added the same one."""
        found: list[Principal] = []
        async with self._store.read() as unit:
            for key in await unit.ssh_keys.called(fingerprint):
                if key.expires is not None and key.expires <= self._clock():
                    continue
                try:
                    principal = await owner_now(unit, key.owner, self._clock())
                except Unauthenticated:
                    continue
                found.append(replace(principal, source=source, until=key.expires))
        return found

    async def find(self, candidates: Sequence[Principal], name: str) -> tuple[Principal, InstanceId] | None:
        """Which of them may interact with the instance of that id, name or alias; None: nobody, or it means several,
        where somebody who added a key that is not his could have others come into what is his."""
        found: dict[InstanceId, Principal] = {}
        for principal in candidates:
            for id in await self._meant(principal, name):
                found.setdefault(id, principal)
        if len(found) != 1:
            return None
        return next((principal, id) for id, principal in found.items())

    async def _meant(self, principal: Principal, name: str) -> Sequence[InstanceId]:
        """By id or name; else by what a dialect calls it."""
        if not name or "\0" in name:
            return []
        async with self._store.read() as unit:
            keys = [name]
            seen = None if principal.operator else principal.reach
            keys += await unit.foreigners.anywhere(seen, name)
            meant: list[InstanceId] = []
            for key in keys:
                try:
                    instance = await self._instances.find(unit, principal, key, Action.INSTANCE_INTERACT)
                except (NotFound, Forbidden):
                    continue
                if not instance.intent.deleted:
                    meant.append(instance.id)
        # An id means one, whatever else is called so.
        return meant[:1] if meant[:1] == [name] else list(dict.fromkeys(meant))


def _same(one: Owner, other: Owner) -> bool:
    """Whether it is the same one, whatever his credential lets through."""
    if one.user is not None or other.user is not None:
        return one.user == other.user
    return (one.name, one.project, one.operator) == (other.name, other.project, other.operator)
