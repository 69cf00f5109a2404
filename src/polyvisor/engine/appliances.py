"""Appliances: machines in files of the catalogue, that came from elsewhere or are to go there."""

from __future__ import annotations

from collections.abc import Sequence

from polyvisor.access.grants import permit
from polyvisor.engine.media import MediaEngine, volume_disk
from polyvisor.model.appliance import Appliance
from polyvisor.model.principal import Action, Principal
from polyvisor.model.volume import Volume
from polyvisor.ports.host import Host


class AppliancesEngine:
    """Look into them; make them. What is in one is unpacked as from any medium."""

    def __init__(self, host: Host, media: MediaEngine) -> None:
        self._host = host
        self._media = media

    async def look(self, principal: Principal, source: Volume, length: int) -> Appliance | None:
        """The machine that the first `length` bytes of a medium are an archive of; None: they are no archive.

        :raise Invalid: it is damaged or hostile. :raise Unsupported: it asks for what is not taken.
        :raise NotFound: the caller may not use the medium.
        """
        permit(principal, Action.VOLUME_USE, source.project, source.id)
        return await self._host.volumes.appliance(volume_disk(source), length)

    async def pack(
        self, principal: Principal, disks: Sequence[Volume], about: Appliance | None, kind: str
    ) -> tuple[Volume, int]:
        """A medium with an archive of a machine that has these disks, or without one a qcow2 of the one disk, and its
        length in bytes. Nobody may be writing to the disks. Its id is its name.

        :raise NotFound: the caller may not use one. :raise Forbidden, OverQuota, NoCapacity:
        """
        for disk in disks:
            permit(principal, Action.VOLUME_USE, disk.project, disk.id)
        async with self._host.volumes.packed([volume_disk(disk) for disk in disks], about) as (length, chunks):
            return await self._media.upload(principal, "", chunks, length, kind=kind), length
