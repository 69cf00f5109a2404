"""NICs of the host: the operator's own networks that machines may be put into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polyvisor.access.grants import require_somewhere
from polyvisor.model.faults import NotFound
from polyvisor.model.network import HostNic
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.host import Host


class NicsEngine:
    """Read."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def list(self, principal: Principal) -> Sequence[HostNic]:
        """By number. Which device of the host it is, is for operators."""
        require_somewhere(principal, Action.NIC_VIEW)
        found = sorted(self._host.nics(), key=lambda nic: nic.number)
        return found if principal.operator else [replace(nic, bridge="") for nic in found]

    def numbered(self, number: int) -> str:
        """The name of the NIC of that number. :raise NotFound:"""
        for nic in self._host.nics():
            if nic.number == number:
                return nic.name
        raise NotFound(f"nics: the host has no NIC {number}", field="nics", subject=str(number))


def require_nics(host: Host, names: Sequence[str]) -> None:
    """:raise NotFound: the host has no NIC of one of these names."""
    known = {nic.name for nic in host.nics()}
    for name in names:
        if name not in known:
            raise NotFound(f"nics: the host has no NIC {name[:80]!r}", field="nics", subject=name)
