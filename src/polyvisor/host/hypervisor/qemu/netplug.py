"""NICs that come to a running machine, into a port that a disk could have. They go as they came."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

from polyvisor.host.hypervisor.qemu.argv import plug_of, port_of
from polyvisor.host.hypervisor.qemu.chain import Ask
from polyvisor.host.hypervisor.qemu.qmp import COMMAND_LIMIT
from polyvisor.host.network import passt
from polyvisor.host.network.bridged import open_bridged
from polyvisor.host.network.tap import open_tap
from polyvisor.model.faults import Fault, Internal, TimedOut
from polyvisor.model.instance import Address
from polyvisor.ports.hypervisor import BridgedNic, NicPlug, TapNic, UserNic

MARK = "nic"
"""How the names of such devices begin, where those of disks have a serial."""
_LIMIT = 20.0
Lend = Callable[[int, str], Awaitable[None]]


def name_of(mac: str) -> str:
    """What a NIC is called in the machine."""
    return MARK + mac.replace(":", "")


async def plug(ask: Ask, lend: Lend, slot: int, wanted: NicPlug, uid: int | None) -> None:
    """Plug it into that port. All or nothing.

    :raise Busy: a host port is taken. :raise Unavailable: the bridge is not there.
    """
    name = name_of(wanted.mac)
    sock, joined = None, None
    if isinstance(wanted.nic, UserNic):
        assert isinstance(wanted.address, Address)
        sock, joined = passt.join(wanted.nic, wanted.address, uid)
        fd = os.dup(sock.fileno())
    elif isinstance(wanted.nic, BridgedNic):
        fd = open_bridged(wanted.nic)
    else:
        fd = open_tap(wanted.nic.device) if wanted.nic.fd is None else os.dup(wanted.nic.fd)
    try:
        await lend(fd, name)
        way = _way(wanted.nic, name)
        await ask("netdev_add", COMMAND_LIMIT, id=name, **way)
        await ask(
            "device_add", COMMAND_LIMIT, driver="virtio-net-pci", id=plug_of(slot, name), bus=port_of(slot),
            netdev=name, mac=wanted.mac, romfile="",
        )  # fmt: skip
        if joined is not None:
            await joined
    except BaseException:
        with contextlib.suppress(Fault):
            await asyncio.shield(_drop(ask, slot, name))
        raise
    finally:
        os.close(fd)
        if sock is not None:
            sock.close()
        if joined is not None and not joined.done():
            joined.cancel()


def _way(nic: UserNic | TapNic | BridgedNic, name: str) -> dict[str, object]:
    if isinstance(nic, UserNic):
        return {"type": "stream", "server": False, "addr": {"type": "fd", "str": name}}
    return {"type": "tap", "fd": name}


async def _drop(ask: Ask, slot: int, name: str) -> None:
    with contextlib.suppress(Internal):
        await ask("device_del", COMMAND_LIMIT, id=plug_of(slot, name))
    with contextlib.suppress(Internal):
        await ask("netdev_del", COMMAND_LIMIT, id=name)


async def unplug(ask: Ask, gone: Callable[[], Awaitable[bool]], slot: int, mac: str) -> None:
    """Ask the guest to let go of it, until it has. :raise TimedOut: it does not; it stays plugged in."""
    name, clock = name_of(mac), asyncio.get_running_loop().time
    end, again = clock() + _LIMIT, 0.0
    while not await gone():
        if clock() > end:
            raise TimedOut("the guest does not let go of the NIC")
        if clock() >= again:  # a request is lost while the guest is booting
            with contextlib.suppress(Internal):
                await ask("device_del", COMMAND_LIMIT, id=plug_of(slot, name))
            again = clock() + 8.0
        await asyncio.sleep(0.1)
    with contextlib.suppress(Internal):
        await ask("netdev_del", COMMAND_LIMIT, id=name)
