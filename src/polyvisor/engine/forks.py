"""Forks: a new instance that is what another one is now. One snapshot for all that are asked for at once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Collection
from dataclasses import astuple, dataclass, replace

from polyvisor.access.grants import permit, require
from polyvisor.engine.instances import Asked, InstancesEngine, Until
from polyvisor.engine.snapshots import SnapshotsEngine, require_disk, require_no_tpm
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, Invalid, NotFound, WrongState
from polyvisor.model.ids import InstanceId, SnapshotId
from polyvisor.model.instance import Instance, Mount, Power
from polyvisor.model.principal import Action, Principal
from polyvisor.model.request import Create
from polyvisor.model.snapshot import SnapshotKind

log = logging.getLogger("polyvisor.engine")
_LIMIT = 300.0
_WITH_MEMORY = {Face.RUNNING, Face.PAUSED, Face.SUSPENDED}
Of = tuple[InstanceId, SnapshotKind]


@dataclass
class _Batch:
    """Forks that were asked for before their snapshot was begun. `users`: those that still need it."""

    taken: asyncio.Task[SnapshotId] | None = None
    users: int = 0


class ForksEngine:
    """A snapshot goes when the instances made of it are there; a crash leaves it to `SnapshotsEngine.collect`."""

    def __init__(self, instances: InstancesEngine, snapshots: SnapshotsEngine) -> None:
        self._instances = instances
        self._snapshots = snapshots
        self._gathering: dict[Of, _Batch] = {}
        self._turns: dict[InstanceId, asyncio.Lock] = {}
        self._clearing: set[asyncio.Task[None]] = set()

    async def fork(
        self, principal: Principal, key: str, wanted: Create, kind: SnapshotKind | None = None, *,
        without: Collection[str] = (), receipt: str = "",
    ) -> Asked:  # fmt: skip
        """A new instance, accepted. `kind` None: with memory where the source has some now, else of its disk alone.

        The source stands still for milliseconds and goes on. `wanted` may say what a create from a snapshot may. Both
        have the volumes that are only read, unless it is to be `without` some: then it is of the disk.
        :raise WrongState: another volume can be written. :raise Unsupported: it would have a TPM's secrets as well.
        :raise NotFound, Invalid, Exists, Busy, OverQuota:
        """
        require(principal, Action.INSTANCE_CREATE)
        said = ("fork", key, kind, astuple(wanted), sorted(without))
        digest = hashlib.sha256(repr(said).encode()).hexdigest()
        if (earlier := await self._instances.earlier(principal, receipt, digest)) is not None:
            return earlier
        source = await self._instances.get(principal, key, Action.INSTANCE_OPERATE)
        if source.project != principal.project:  # what is in it is taken away
            permit(principal, Action.INSTANCE_INTERACT, source.project, key)
        require_disk(source)
        shared = _shared(source, without)
        kind = kind or _kind(source, wanted, without)
        _check_memory(kind, wanted, without)
        if kind is SnapshotKind.FULL:
            require_no_tpm(source)
        if kind is SnapshotKind.DISK:
            wanted = replace(wanted, mounts=shared)
        if wanted.vaults is None and source.project == principal.project:  # nobody takes another's vaults along
            wanted = replace(wanted, vaults=tuple(one.vault for one in source.spec.vaults if not one.lent))
        name = wanted.name or f"{source.name[:50]}-{secrets.token_hex(4)}"
        batch = self._join(principal, (source.id, kind))
        asked = None
        try:
            assert batch.taken is not None
            snapshot = await asyncio.shield(batch.taken)
            fork = replace(wanted, name=name, hostname=wanted.hostname or hostname(name), snapshot=snapshot)
            asked = await self._instances.create(principal, fork, receipt, digest)
        finally:
            self._leave(batch, asked)
        return asked

    def _join(self, principal: Principal, of: Of) -> _Batch:
        """The forks of this source that are waiting for the snapshot before theirs to be over, and one more."""
        batch = self._gathering.get(of)
        if batch is None:
            batch = self._gathering[of] = _Batch()
            batch.taken = asyncio.create_task(self._take(principal, of), name=f"snapshot of {of[0]}")
        batch.users += 1
        return batch

    async def _take(self, principal: Principal, of: Of) -> SnapshotId:
        """One at a time for each source; from here on nobody joins, since it must be of a moment after the asking."""
        turn = self._turns.setdefault(of[0], asyncio.Lock())
        try:
            async with turn:
                del self._gathering[of]
                taken = await self._snapshots.create(principal, of[0], kind=of[1], transient=True)
                assert taken.asked is not None  # it repeats none
                await self._instances.settle(taken.asked, Until.LAUNCHED, _LIMIT)
                return taken.snapshot.id
        finally:
            # Free is not yet unwanted: who waits for it takes it only after this.
            if not turn.locked() and all(id != of[0] for id, _ in self._gathering):
                self._turns.pop(of[0], None)

    def _leave(self, batch: _Batch, asked: Asked | None) -> None:
        task = asyncio.create_task(self._left(batch, asked), name="fork made")
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)

    async def _left(self, batch: _Batch, asked: Asked | None) -> None:
        """It is made, or will not be; the last one takes the snapshot away."""
        try:
            if asked is not None:
                await self._instances.settle(asked, Until.LAUNCHED, _LIMIT)
        except Fault as fault:
            log.info("a fork was not made: %s", fault.public)
        batch.users -= 1
        if batch.users or batch.taken is None:
            return
        try:
            await self._snapshots.discard(await batch.taken)
        except Fault as fault:
            log.info("nothing to clear away after forks: %s", fault.public)

    async def close(self) -> None:
        """Stop; what is left is removed by the next start."""
        for task in list(self._clearing):
            task.cancel()
        await asyncio.gather(*self._clearing, return_exceptions=True)


def hostname(name: str) -> str:
    """A name of ours as a host's: letters, digits and '-' only."""
    return "".join(c if c.isalnum() else "-" for c in name)[:63].strip("-") or "fork"


def _kind(source: Instance, wanted: Create, without: Collection[str]) -> SnapshotKind:
    goes_on = wanted.power is Power.ON and not without and face(source) in _WITH_MEMORY
    return SnapshotKind.FULL if goes_on else SnapshotKind.DISK


def _check_memory(kind: SnapshotKind, wanted: Create, without: Collection[str]) -> None:
    """The snapshot's memory is nowhere on disk, so it is taken up at once or not at all. And it knows of volumes."""
    if kind is SnapshotKind.FULL and wanted.power is not Power.ON:
        raise Invalid("power: a fork with memory goes on at once", field="power")
    if kind is SnapshotKind.FULL and without:
        raise Invalid("without: a fork with memory has what its source has; ask for kind disk", field="without")


def _shared(source: Instance, without: Collection[str]) -> tuple[Mount, ...]:
    """The volumes that both are to have. :raise WrongState: one can be written. :raise NotFound: one is not there."""
    for key in without:
        if all(key not in (mount.volume, mount.name) for mount in source.mounts):
            raise NotFound(
                f"without: no volume {key[:80]!r} is attached to {source.name}", field="without", subject=key
            )
    shared = tuple(mount for mount in source.mounts if mount.volume not in without and mount.name not in without)
    for mount in shared:
        if not mount.read_only:
            text = f"volumes: {mount.name} can be written, so it cannot belong to two; detach it or fork without it"
            raise WrongState(text, field="volumes", subject=mount.volume)
    return shared
