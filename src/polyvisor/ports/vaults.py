"""What credentials need of the world: an authority that guests believe, and who asks for them at the last moment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyvisor.model.ids import CredentialId, InstanceId, ProjectId, ServiceId, VaultId
from polyvisor.model.vault import Opening, Vault, VaultCredential, VaultEntry, VaultRequest


@dataclass(frozen=True, slots=True)
class Trusted:
    """The authority that guests with vaults believe: its certificate as PEM, what OpenSSL calls its file, and the
    certificates that this host believes, for guests that have none."""

    certificate: bytes
    name: str
    others: bytes


class Authority(Protocol):
    """Of this installation."""

    def trusted(self) -> Trusted:
        """What guests are told to believe; made at the first call."""


class Vaults(Protocol):
    """Who knows what instances use, asked for each connection and each request: what is taken back holds no more."""

    async def opening(self, id: InstanceId, host: str) -> Opening | None:
        """What is done to the instance's requests to that host; None: nothing, they pass as they are."""

    def note(self, opening: Opening, host: str, status: int) -> None:
        """A request was answered with that. It is written down a moment later."""


class VaultRecords(Protocol):
    """Vaults, and what is in them, which goes with them; they go with their projects."""

    async def add(self, vault: Vault) -> None:
        """Insert. :raise Exists: the project has one of that name. :raise NotFound: there is no such project."""

    async def save(self, vault: Vault) -> None:
        """Write. :raise NotFound: :raise Exists:"""

    async def remove(self, id: VaultId) -> None:
        """Delete. :raise NotFound:"""

    async def of(self, projects: Collection[ProjectId] | None) -> Sequence[Vault]:
        """Those of some projects, oldest first; None: all."""

    async def those(self, ids: Collection[VaultId]) -> Sequence[Vault]:
        """Those that there are, oldest first."""

    async def put_in(self, credential: VaultCredential) -> None:
        """Insert. :raise Exists: the vault has one of that name. :raise NotFound: there is no such vault."""

    async def change(self, credential: VaultCredential) -> None:
        """Write all of it but its name. :raise NotFound:"""

    async def take_out(self, vault: VaultId, id: CredentialId) -> None:
        """Delete. :raise NotFound:"""

    async def credentials(
        self, ids: Collection[VaultId], names: Collection[str] | None = None
    ) -> Sequence[VaultCredential]:
        """Of some vaults, oldest first; those of some names, or all."""

    async def serve(self, service: VaultEntry) -> None:
        """Insert. :raise Exists: the vault has one for that host. :raise NotFound: there is no such vault."""

    async def unserve(self, vault: VaultId, id: ServiceId) -> None:
        """Delete. :raise NotFound:"""

    async def services(self, ids: Collection[VaultId], hosts: Collection[str] | None = None) -> Sequence[VaultEntry]:
        """Of some vaults, oldest first; those for some hosts as they are written, or all."""

    async def note(self, seen: Sequence[VaultRequest]) -> None:
        """Insert; those of vaults that are gone are dropped, and of each vault the latest stay."""

    async def requests(self, id: VaultId, limit: int) -> Sequence[VaultRequest]:
        """The latest, newest first."""
