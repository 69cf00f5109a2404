"""NICs on a bridge of the operator's, in a network namespace of the test's own: reached, and gone with the machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from polyvisor.client import Refused
from polyvisor.model.ids import InstanceId
from polyvisor.model.network import bridged_mac
from polyvisor.wire.native import ForkInstance
from real.conftest import share
from real.guests import Guests, make_boot_files, sh
from real.namespaces import Namespace, listening
from serving import Server

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and bridges need root"),
]
SETTINGS = """
[nics.lab]
number = 3
bridge = "br-lab"
description = "where the printers are"

[nics.later]
number = 4
bridge = "br-later"
"""


def test_a_machine_is_on_the_operators_bridge_while_it_runs(base: Server, tmp_path: Path) -> None:
    make_boot_files(base)
    share(base.data, tmp_path / "data")
    (tmp_path / "polyvisor.toml").write_text(SETTINGS)
    space = Namespace()
    server = Server(tmp_path / "data", "--config", str(tmp_path / "polyvisor.toml"), prefix=space.prefix)
    try:
        space.run("ip", "link", "add", "br-lab", "type", "bridge")
        space.run("ip", "addr", "add", "192.0.2.1/24", "dev", "br-lab")
        space.run("ip", "link", "set", "br-lab", "up")
        server.start()
        with space.inside(), listening(None, "192.0.2.1") as port:
            asyncio.run(_work(server, space, port))
    finally:
        server.stop()
        space.remove()


def _ports(space: Namespace) -> int:
    """How many devices are on the bridge."""
    return sum(link.get("master") == "br-lab" for link in space.links().values())


async def _work(server: Server, space: Namespace, port: int) -> None:
    async with server.client() as client:
        nics = [(nic.name, nic.number, nic.bridge, nic.description) for nic in await client.hosts.nics()]
        assert nics[0] == ("lab", 3, "br-lab", "where the printers are")
        vm = await Guests(client).boot(nics=["lab", "lab"])
        assert (vm.nics, _ports(space)) == (["lab", "lab"], 2)
        mac = await sh(client, vm.id, "cat /sys/class/net/eth1/address")
        assert mac in {bridged_mac(InstanceId(vm.id), index) for index in (0, 1)}
        said = await sh(
            client, vm.id,
            f"ip addr add 192.0.2.5/24 dev eth1; ip link set eth1 up; wget -q -O - http://192.0.2.1:{port}/",
        )  # fmt: skip
        assert said == "you are 192.0.2.5"
        other = await Guests(client).boot(nics=["lab"])
        await sh(client, other.id, "ip addr add 192.0.2.6/24 dev eth1; ip link set eth1 up")
        for here, there in ((vm, 6), (other, 5)):
            assert "1 packets received" in await sh(client, here.id, f"ping -c 1 -W 20 192.0.2.{there}")
        await client.instances.delete(other.id, force=True, wait="launched")
        for refused, kind in [
            (client.instances.fork(vm.id, ForkInstance()), "Unsupported"),
            (Guests(client).boot(nics=["nonesuch"]), "NotFound"),
            (Guests(client).boot(nics=["later"]), "Unavailable"),
            (Guests(client).boot(nics=["lab"], network=False), "Invalid"),
        ]:
            with pytest.raises(Refused) as caught:
                await refused
            assert (caught.value.kind, caught.value.problem.field) == (kind, "nics")
    known = space.links()["br-lab"]["address"]
    server.kill()
    assert _ports(space) == 2
    server.start()
    async with server.client() as client:
        assert _ports(space) == 2
        await client.instances.standby(vm.id)
        assert _ports(space) == 0
        await client.instances.restore(vm.id)
        assert space.links()["br-lab"]["address"] == known, "its neighbours would look for it elsewhere"
        assert await sh(client, vm.id, f"wget -q -O - http://192.0.2.1:{port}/") == "you are 192.0.2.5"
        await client.instances.delete(vm.id, force=True, wait="launched")
        assert _ports(space) == 0
