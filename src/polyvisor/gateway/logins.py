"""Who a client is in the guest: a user that the operator names, where the guest has it; else the user of its image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polyvisor.engine.streams import Guest
from polyvisor.model.faults import Invalid, NotFound

_USERS = "/etc/passwd"
_LARGEST = 1 << 20  # bytes of it that are looked through
_FIELDS = 7


@dataclass(frozen=True, slots=True)
class Login:
    """`user` None: the image's, whose files are root's here. `home` empty: wherever that is."""

    user: str | None = None
    owner: tuple[int, int] = (0, 0)
    home: str = ""

    @property
    def env(self) -> Mapping[str, str]:
        """What a login tells of it. Said here, since an image may have a HOME of its own, which is another's."""
        return {} if self.user is None else {"HOME": self.home, "USER": self.user, "LOGNAME": self.user}


async def login_of(guest: Guest, user: str) -> Login:
    """Asked of the guest, whose users come and go as it likes. :raise Fault: it does not answer."""
    if not user:
        return Login()
    try:
        said = await _beginning(guest)
    except (NotFound, Invalid):  # a guest need not have any
        return Login()
    for line in said.decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) == _FIELDS and fields[0] == user and fields[2].isdecimal() and fields[3].isdecimal():
            home = fields[5] if fields[5].startswith("/") else "/"
            return Login(user, (int(fields[2]), int(fields[3])), home)
    return Login()


async def _beginning(guest: Guest) -> bytes:
    said = bytearray()
    async for chunk in guest.read_file(_USERS):
        said += chunk
        if len(said) > _LARGEST:
            break
    return bytes(said[:_LARGEST])
