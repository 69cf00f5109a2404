"""Which instances use which vaults, what their guests are told of it, and what they asked with it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from weakref import WeakValueDictionary

from polyvisor.engine.egress import in_force
from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.openings import Openings
from polyvisor.engine.vaults import find_vault, rebind
from polyvisor.engine.waits import Waits
from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, Fault, NotFound, Unsupported, WrongState
from polyvisor.model.ids import InstanceId, VaultId
from polyvisor.model.instance import Instance, Phase
from polyvisor.model.principal import Action, Principal
from polyvisor.model.spec import check_spec
from polyvisor.model.vault import TRUST, Binding, VaultRequest, placeholders
from polyvisor.ports.guest import Guest
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit
from polyvisor.ports.vaults import Authority, Trusted

log = logging.getLogger("polyvisor.engine")
_LIMIT = 60.0
_UP = (Phase.RUNNING, Phase.PAUSED, Phase.LOST)
_BEGINNING = frozenset({Face.CREATING, Face.STARTING, Face.RESUMING})
FOLDER = "/run/polyvisor-vaults"
_ALONE, _ALL = f"{FOLDER}/ca.pem", f"{FOLDER}/ca-certificates.pem"
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_SOURCE, _HASHED = "/usr/local/share/ca-certificates/polyvisor-vaults.crt", "/etc/ssl/certs"
_LARGEST = 4 * 1024 * 1024  # bytes of a guest's own bundle


class BindingsEngine:
    """Bind, lend, tell the guest."""

    def __init__(
        self, store: Store, host: Host, instances: InstancesEngine, waits: Waits, authority: Authority | None,
        openings: Openings | None,
    ) -> None:  # fmt: skip
        self._store = store
        self._host = host
        self._instances = instances
        self._waits = waits
        self._authority = authority
        self._openings = openings
        self._lent: Counter[tuple[InstanceId, VaultId]] = Counter()
        self._turns: WeakValueDictionary[InstanceId, asyncio.Lock] = WeakValueDictionary()

    async def bind(self, principal: Principal, key: str, vaults: Sequence[str]) -> Instance:
        """It uses these and no others, from now on: answered when that holds.

        :raise NotFound: naming one that there is not, or that is another project's. :raise Invalid: they are too many.
        :raise WrongState: it was started without what that takes. :raise Busy: it is being started so.
        """
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_ALTER)
            wanted = [Binding(id) for id in await _admitted(unit, principal, instance, vaults)]
            named = {one.vault for one in wanted}
            kept = [one for one in instance.spec.vaults if one.lent and one.vault not in named]
            await self._write(unit, instance, (*wanted, *kept))
        return await self._held(instance.id)

    @asynccontextmanager
    async def lend(self, principal: Principal, key: str, vaults: Sequence[str]) -> AsyncIterator[None]:
        """It uses these too, within. A server that is killed takes them back when it starts.

        :raise Fault: as `bind`.
        """
        if not vaults:
            yield
            return
        instance, wanted = None, list[VaultId]()
        try:
            async with self._store.write() as unit:
                instance = await self._instances.find(unit, principal, key, Action.INSTANCE_INTERACT)
                wanted = await _admitted(unit, principal, instance, vaults)
                self._lent.update((instance.id, id) for id in wanted)  # before another end may look what is lent
                has = {one.vault for one in instance.spec.vaults}
                more = tuple(Binding(id, lent=True) for id in wanted if id not in has)
                await self._write(unit, instance, (*instance.spec.vaults, *more))
            await self._held(instance.id)
            yield
        finally:
            if instance is not None:
                self._lent.subtract((instance.id, id) for id in wanted)
                self._lent += Counter()  # without those that nobody has any more
                await asyncio.shield(self._take_back(instance.id))

    async def _take_back(self, id: InstanceId) -> None:
        async with self._store.write() as unit:
            try:
                instance = await unit.instances.get(id)
            except NotFound:
                return
            left = tuple(one for one in instance.spec.vaults if not one.lent or self._lent[id, one.vault])
            if left != instance.spec.vaults:
                await rebind(unit, id, left)

    async def recover(self) -> None:
        """What a server that was killed had lent is taken back."""
        async with self._store.read() as unit:
            lent = [one.id for one in await unit.instances.all() if any(b.lent for b in one.spec.vaults)]
        for id in lent:
            await self._take_back(id)

    async def _write(self, unit: Unit, instance: Instance, bindings: tuple[Binding, ...]) -> None:
        if bindings == instance.spec.vaults:
            return
        spec = check_spec(replace(instance.spec, vaults=bindings))
        if bindings and not instance.spec.vaults:
            await self._require(replace(instance, spec=spec))
        await rebind(unit, instance.id, bindings)

    async def _require(self, instance: Instance) -> None:
        """:raise WrongState, Busy, Unsupported:"""
        if self._authority is None:
            raise Unsupported("vaults: this server keeps no credentials", field="vaults")
        blueprint = blueprint_of(instance)
        await self._host.check(blueprint)
        if instance.spec.egress is None and face(instance) in _BEGINNING:
            raise Busy("vaults: the instance is being started without them", field="vaults", retry_after=1.0)
        if instance.observed.phase in _UP:
            try:
                self._host.require_enforceable(blueprint)
            except WrongState as fault:
                text = "vaults: the machine was started without what they take; it can use them once it was stopped"
                raise WrongState(text, field="vaults") from fault

    async def _held(self, id: InstanceId) -> Instance:
        there = await self._waits.until(id, in_force, _LIMIT)
        if there is None:
            raise NotFound("the instance was deleted", subject=id)
        return there

    async def requests(self, principal: Principal, key: str, limit: int) -> Sequence[VaultRequest]:
        """The latest that a vault's credentials went with, newest first. :raise NotFound:"""
        if self._openings is not None:
            await self._openings.flush()
        async with self._store.read() as unit:
            vault = await find_vault(unit, principal, key, Action.VAULT_VIEW)
            return await unit.vaults.requests(vault.id, limit)

    # -- what a guest is told ------------------------------------------------------------------------------------

    async def supply(self, instance: Instance, guest: Guest) -> Mapping[str, str]:
        """The variables of what is run in a guest that uses vaults; it believes our authority by then.

        :raise Fault: the guest does not answer.
        """
        if not instance.spec.vaults or self._authority is None:
            return {}
        await self._held(instance.id)
        async with self._turns.setdefault(instance.id, asyncio.Lock()):
            await _convince(guest, await asyncio.to_thread(self._authority.trusted))
        ids = [one.vault for one in instance.spec.vaults]
        async with self._store.read() as unit:
            names = [one.name for one in await unit.vaults.credentials(ids) if one.enabled]
            services = await unit.vaults.services(ids)
        trust = dict.fromkeys(TRUST, _ALL) | {"NODE_EXTRA_CA_CERTS": _ALONE, "DENO_CERT": _ALONE}
        return {**placeholders(names, services), **trust}


async def _admitted(unit: Unit, principal: Principal, instance: Instance, vaults: Sequence[str]) -> list[VaultId]:
    """The vaults of those names, which are the instance's own project's. :raise NotFound:"""
    found = [await find_vault(unit, principal, key, Action.VAULT_USE, instance.project) for key in vaults]
    return list(dict.fromkeys(one.id for one in found))


async def _convince(guest: Guest, trusted: Trusted) -> None:
    """The guest believes our authority beside those that it believes, or this host does. What its own programs look
    into is changed as well, as far as it can be written. What is done is not done again until the guest has forgotten.
    """
    if (await guest.stat(_ALL, follow=True)).exists:
        return
    own = b""
    for path in _BUNDLES:
        if own := await _read(guest, path):
            break
    ours = trusted.certificate
    everything = own if ours in own else (own or trusted.others).rstrip(b"\n") + b"\n" + ours
    more = [path for path in _BUNDLES[1:] if await _read(guest, path)]
    await _write(guest, _ALONE, ours)
    for path, data in (
        (_SOURCE, ours), (f"{_HASHED}/{trusted.name}", ours), (_BUNDLES[0], everything),
        *((path, everything) for path in more),
    ):  # fmt: skip
        try:
            real = await guest.real_path(path) if (await guest.stat(path, follow=True)).exists else path
            await _write(guest, real, data)
        except Fault as fault:
            log.info("%s cannot be written in a guest: %s", path, fault.public)
    await _write(guest, _ALL, everything)  # the last, since it says that it is done


async def _read(guest: Guest, path: str) -> bytes:
    """Empty: there is none that is of use."""
    data = bytearray()
    try:
        async for chunk in guest.read_file(path):
            data += chunk
            if len(data) > _LARGEST:
                return b""
    except Fault:
        if guest.closed:
            raise
        return b""
    return bytes(data)


async def _write(guest: Guest, path: str, data: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 64 * 1024):
            yield data[at : at + 64 * 1024]

    await guest.write_file(path, chunks(), mode=0o644)
