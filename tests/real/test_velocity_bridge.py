"""Machines made through Velocity on a bridge of the administrator's: with each other and with a host there.

All of it is in one network namespace of the test's own. The guests have no agent and no DHCP: each takes an address
that follows from its MAC, and tells over TCP whom it reaches.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from polyvisor.model.ids import InstanceId
from polyvisor.model.network import bridged_mac
from real.conftest import finish, share
from real.guests import make_boot_files
from real.namespaces import Namespace, listening
from real.systems import system
from real.test_velocity import NETWORK, Velocity, calls
from serving import Server

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and bridges need root"),
]
SETTINGS = '[nics.lab]\nnumber = 3\nbridge = "br-lab"\ndescription = "where the printers are"\n'
NUMBER = 3
HOST = "198.19.0.1"
PORT = 8081
TELLS = """
bb=/bin/busybox
$bb mkdir -p /sys /www/cgi-bin
$bb mount -t sysfs none /sys
set -- $($bb tr : ' ' < /sys/class/net/eth0/address)
me=198.18.$((0x$5)).$((0x$6))
$bb ip addr add $me/15 dev eth0
$bb ip link set eth0 up
echo "this is $me" > /www/who
echo '#!/bin/busybox sh
bb=/bin/busybox
echo
$bb ping -q -c 3 -W 5 ${QUERY_STRING%:*}
$bb timeout 20 $bb wget -q -O - http://$QUERY_STRING/who' > /www/cgi-bin/reach
$bb chmod +x /www/cgi-bin/reach
$bb httpd -f -p 80 -h /www
"""


def address_of(id: str) -> str:
    """What a machine that runs that calls itself."""
    *_, high, low = bridged_mac(InstanceId(id), 0).split(":")
    return f"198.18.{int(high, 16)}.{int(low, 16)}"


@pytest.fixture
def lab(base: Server, tmp_path: Path) -> Iterator[tuple[Server, Namespace]]:
    """A server in a namespace, with a bridge that the administrator made and named; the host there is `HOST`."""
    make_boot_files(base)
    share(base.data, tmp_path / "data")
    (tmp_path / "polyvisor.toml").write_text(SETTINGS)
    space = Namespace()
    server = Server(tmp_path / "data", "--config", str(tmp_path / "polyvisor.toml"), prefix=space.prefix)
    try:
        space.run("ip", "link", "add", "br-lab", "type", "bridge")
        space.run("ip", "addr", "add", f"{HOST}/15", "dev", "br-lab")
        space.run("ip", "link", "set", "br-lab", "up")
        with space.inside():
            server.start()
            yield server, space
            finish(server)
    finally:
        server.stop()
        space.remove()


async def test_two_machines_on_a_bridge_reach_each_other_and_a_host_there(
    lab: tuple[Server, Namespace], tmp_path: Path
) -> None:
    server, space = lab
    data = await asyncio.to_thread(system, server, tmp_path, TELLS, NETWORK)
    async with calls(server) as velocity, server.client() as client:
        gid = await velocity.group()
        assert (await velocity.ok("POST /v/nic/list"))["host_nics"][0]["nicid"] == NUMBER
        iso = await velocity.upload(gid, "system", "ISO", data, readonly=True)
        one, two = [await velocity.run(gid, iso, {"type": "BRIDGE", "host": NUMBER}, name=f"m{i}") for i in (1, 2)]
        here, there = [address_of(vm.id) async for vm in client.instances.list()]
        assert here != there
        with listening(None, HOST, PORT):
            for me, other in ((here, there), (there, here)):
                await serves(me)
                assert " 0% packet loss" in space.run("ping", "-q", "-c", "3", "-W", "5", me)
                assert await asked(f"http://{me}/who") == f"this is {me}\n"
                said = await asked(f"http://{me}/cgi-bin/reach?{other}")
                assert " 0% packet loss" in said and said.endswith(f"this is {other}\n"), said
                said = await asked(f"http://{me}/cgi-bin/reach?{HOST}:{PORT}")
                assert " 0% packet loss" in said and said.endswith(f"you are {me}"), said
        await end(velocity, gid, one, two)


async def end(velocity: Velocity, gid: int, *vmids: int) -> None:
    """No machine of the group, and no group."""
    for vmid in vmids:
        await velocity.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED", force=True)
        await velocity.until(vmid, "STOPPED")
    await velocity.ok("DELETE /u/group", gid=gid)


async def asked(url: str) -> str:
    """What is said there."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        return (await http.get(url)).text


async def serves(address: str) -> None:
    """Until a guest has booted."""
    async with asyncio.timeout(180):
        while True:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(address, 80), 5)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.5)
            else:
                writer.close()
                return
