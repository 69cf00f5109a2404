"""Vaults: made and filled by who may, and read by nobody: a value that was put in is never told again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from polyvisor.access.grants import permit, require, require_somewhere, scope
from polyvisor.access.seal import Seal
from polyvisor.model.faults import Exists, Invalid, NotFound, OverQuota, Unsupported
from polyvisor.model.ids import CredentialId, InstanceId, ProjectId, ServiceId, VaultId, mint
from polyvisor.model.principal import Action, Principal
from polyvisor.model.vault import (
    MOST_INSIDE,
    MOST_VAULTS,
    Auth,
    Binding,
    Vault,
    VaultCredential,
    VaultEntry,
    check_auth,
    check_credential,
    check_title,
    check_value,
    check_words,
    parse_host,
)
from polyvisor.ports.store import Store, Unit


@dataclass(frozen=True, slots=True)
class Wanted:
    """A service that is asked for."""

    host: str
    auth: Auth
    description: str = ""
    enabled: bool = True


async def find_vault(
    unit: Unit, principal: Principal, key: str, action: Action, project: ProjectId | None = None
) -> Vault:
    """In the caller's transaction; of that `project` alone, where one is named. :raise NotFound: :raise Forbidden:"""
    missing = NotFound(f"Vault {key[:80]} not found", subject=key[:80])
    found = await unit.vaults.those([VaultId(key)]) if "\0" not in key else []
    if not found or project not in (None, found[0].project):
        raise missing
    try:
        permit(principal, action, found[0].project, key)
    except NotFound as fault:
        raise missing from fault
    return found[0]


class VaultsEngine:
    """Verbs on vaults and on what is in them."""

    def __init__(self, store: Store, clock: Callable[[], datetime], seal: Seal | None) -> None:
        self._store = store
        self._clock = clock
        self._sealing = seal

    @property
    def _seal(self) -> Seal:
        if self._sealing is None:
            raise Unsupported("this server keeps no credentials")
        return self._sealing

    async def create(self, principal: Principal, name: str, description: str = "") -> Vault:
        """:raise Invalid, Exists, OverQuota, Forbidden:"""
        require(principal, Action.VAULT_CREATE)
        project = principal.project
        vault = Vault(
            VaultId(f"vlt_{mint()}"), project, check_title(name), self._clock(), check_words(description)
        )  # fmt: skip
        async with self._store.write() as unit:
            if len(await unit.vaults.of([project])) >= MOST_VAULTS:
                raise OverQuota(f"a project has at most {MOST_VAULTS} vaults")
            await unit.vaults.add(vault)
        return vault

    async def list(self, principal: Principal) -> Sequence[Vault]:
        """Those that the caller may see, oldest first."""
        require_somewhere(principal, Action.VAULT_VIEW)
        async with self._store.read() as unit:
            return await unit.vaults.of(scope(principal, Action.VAULT_VIEW))

    async def get(self, principal: Principal, key: str) -> Vault:
        """:raise NotFound: also when it is another project's."""
        async with self._store.read() as unit:
            return await find_vault(unit, principal, key, Action.VAULT_VIEW)

    async def update(
        self, principal: Principal, key: str, *, name: str | None = None, description: str | None = None
    ) -> Vault:
        """What is None stays. :raise Invalid, NotFound, Exists:"""
        async with self._store.write() as unit:
            vault = await find_vault(unit, principal, key, Action.VAULT_ALTER)
            if name is not None:
                vault = replace(vault, name=check_title(name))
            if description is not None:
                vault = replace(vault, description=check_words(description))
            await unit.vaults.save(vault)
        return vault

    async def delete(self, principal: Principal, key: str) -> Vault:
        """With all that is in it; whoever uses it does so no more, from the next request on. :raise NotFound:"""
        async with self._store.write() as unit:
            vault = await find_vault(unit, principal, key, Action.VAULT_DELETE)
            await unit.vaults.remove(vault.id)
            for instance in await unit.instances.all():
                left = tuple(one for one in instance.spec.vaults if one.vault != vault.id)
                if left != instance.spec.vaults:
                    await rebind(unit, instance.id, left)
        return vault

    # -- credentials ---------------------------------------------------------------------------------------------

    async def credentials(self, principal: Principal, key: str) -> Sequence[VaultCredential]:
        """Oldest first. :raise NotFound:"""
        async with self._store.read() as unit:
            return await unit.vaults.credentials([(await find_vault(unit, principal, key, Action.VAULT_VIEW)).id])

    async def add_credential(
        self, principal: Principal, key: str, name: str, value: str, kind: str = "api_key", description: str = ""
    ) -> VaultCredential:
        """:raise Invalid, NotFound, Exists, OverQuota:"""
        check_credential(name)
        check_value(value)
        check_title(kind, "credential_type")
        check_words(description)
        id = CredentialId(f"vcr_{mint()}")
        async with self._store.write() as unit:
            vault = await find_vault(unit, principal, key, Action.VAULT_ALTER)
            if len(await unit.vaults.credentials([vault.id])) >= MOST_INSIDE:
                raise OverQuota(f"a vault has at most {MOST_INSIDE} credentials")
            sealed = self._seal.seal(value, id)
            made = VaultCredential(id, vault.id, name, self._clock(), kind, description, sealed=sealed)
            await unit.vaults.put_in(made)
        return made

    async def rotate(self, principal: Principal, key: str, id: str, value: str) -> VaultCredential:
        """Another value, from the next request on. :raise Invalid, NotFound:"""
        check_value(value)
        async with self._store.write() as unit:
            was = await self._credential(unit, principal, key, id)
            made = replace(was, sealed=self._seal.seal(value, was.id))
            await unit.vaults.change(made)
        return made

    async def remove_credential(self, principal: Principal, key: str, id: str) -> VaultCredential:
        """:raise NotFound:"""
        async with self._store.write() as unit:
            was = await self._credential(unit, principal, key, id)
            await unit.vaults.take_out(was.vault, was.id)
        return was

    async def _credential(self, unit: Unit, principal: Principal, key: str, id: str) -> VaultCredential:
        vault = await find_vault(unit, principal, key, Action.VAULT_ALTER)
        for one in await unit.vaults.credentials([vault.id]):
            if one.id == id:
                return one
        raise NotFound(f"Credential {id[:80]} not found", subject=id[:80])

    # -- services ------------------------------------------------------------------------------------------------

    async def services(self, principal: Principal, key: str) -> Sequence[VaultEntry]:
        """Oldest first. :raise NotFound:"""
        async with self._store.read() as unit:
            return await unit.vaults.services([(await find_vault(unit, principal, key, Action.VAULT_VIEW)).id])

    async def add_services(self, principal: Principal, key: str, wanted: Sequence[Wanted]) -> Sequence[VaultEntry]:
        """All of them or none. Their credentials may come later. :raise Invalid, NotFound, Exists, OverQuota:"""
        hosts = [parse_host(one.host) for one in wanted]
        if len(set(hosts)) < len(hosts):
            raise Invalid("host: is there twice", field="host")
        async with self._store.write() as unit:
            vault = await find_vault(unit, principal, key, Action.VAULT_ALTER)
            there = await unit.vaults.services([vault.id])
            if len(there) + len(wanted) > MOST_INSIDE:
                raise OverQuota(f"a vault has at most {MOST_INSIDE} services")
            for one in there:
                if one.host in hosts:
                    raise Exists(
                        f"host: the vault has a service for {one.host} already", field="host", subject=one.host
                    )
            made = [
                VaultEntry(
                    ServiceId(f"vsv_{mint()}"),
                    vault.id,
                    host,
                    check_auth(one.auth),
                    self._clock(),
                    check_words(one.description),
                    one.enabled,
                )
                for host, one in zip(hosts, wanted, strict=True)
            ]
            for service in made:
                await unit.vaults.serve(service)
        return made

    async def remove_service(self, principal: Principal, key: str, id: str) -> VaultEntry:
        """:raise NotFound:"""
        async with self._store.write() as unit:
            vault = await find_vault(unit, principal, key, Action.VAULT_ALTER)
            for one in await unit.vaults.services([vault.id]):
                if one.id == id:
                    await unit.vaults.unserve(vault.id, one.id)
                    return one
        raise NotFound(f"Service {id[:80]} not found", subject=id[:80])


async def rebind(unit: Unit, id: InstanceId, bindings: tuple[Binding, ...]) -> None:
    """The instance uses these and no others."""
    instance = await unit.instances.get(id)
    await unit.instances.rename(instance.id, instance.name, replace(instance.spec, vaults=bindings))
    unit.wake(instance.id)
