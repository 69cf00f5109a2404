"""A guest that is told who it is and what time it is: by the agent's own protocol, with no server in between.

An agent has one client, so the server is killed; its machine goes on. Two copies of one memory are made inside the one
hypervisor process: a snapshot of the whole machine, to which it goes back.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator

import pytest

from polyvisor.host.guest.agent import Agent
from polyvisor.model.faults import Internal, Invalid
from polyvisor.model.guest import Identity
from polyvisor.model.instance import Address
from real.alone import Alone, say
from real.conftest import finish, share
from real.guests import Guests, sh
from serving import Server

ID = "0123456789abcdef" * 2
ADDRESS = Address("02:11:22:33:44:55", "10.99.7.15", 24, "10.99.7.2", "10.99.7.3")
DRAW = "head -c 32 /dev/urandom | od -An -tx1"
WHO = "hostname; cat /etc/hostname /etc/hosts /etc/machine-id /etc/resolv.conf; ip addr show eth0; ip route"
STEADY = " | grep -v -e inet6 -e valid_lft -e mtu"  # what a link says of itself while it settles
STATE = f"({WHO}){STEADY}"
LINK_LOCAL = "ip -6 addr show eth0 | grep -o 'fe80::[0-9a-f:]*' || true"
PREPARE = """echo 00000000000000000000000000000001 > /etc/machine-id
printf '10.1.2.3\\tmine\\n127.0.1.1\\tsource.lan source # ours\\n' >> /etc/hosts
echo 'options ndots:2' >> /etc/resolv.conf
mkdir -p /etc/systemd/network
ip link show eth0 | sed -n 's/.*ether \\([^ ]*\\).*/MAC=\\1/p' | tr a-f A-F > /etc/systemd/network/a"""


async def leave(server: Server) -> Alone:
    """A micro guest of a server that is killed."""
    async with server.client() as client:
        vm = await Guests(client).boot(hostname="source", memory="128M")
        await sh(client, vm.id, PREPARE)
    server.kill()
    return Alone(server.data / "instances" / vm.id)


@pytest.fixture
async def alone(another: Callable[..., Server]) -> Alone:
    """A micro guest whose server is gone until the end of the test."""
    return await leave(another())


@pytest.fixture(scope="module")
def lone(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    """One for tests that change nothing."""
    data = tmp_path_factory.mktemp("lone") / "data"
    share(base.data, data)
    server = Server(data).start()
    yield asyncio.run(leave(server))
    finish(server)


async def off(agent: Agent, ahead: float = 0.0) -> float:
    """By how many seconds at least the guest's clock is off: it was read at some moment while it was asked."""
    begun = time.time() + ahead
    await say(agent, "touch /tmp/now")
    seen = (await agent.stat("/tmp/now", follow=True)).mtime
    return max(begun - seen, seen - time.time() - ahead, 0.0)


async def test_the_clock_is_stepped_back_and_forth(alone: Alone) -> None:
    async with alone.agent() as agent:
        for now in (1_000_000_000.25, 2_000_000_000.75, None):
            start = time.time()
            await agent.set_clock(now)
            late = 0.0 if now is None else time.time() - start  # it may have been set at any moment of these
            assert await off(agent, 0.0 if now is None else now - start) < 0.5 + late
        for bad in (0.0, -1.0, 1e-9, 9e9, 1e12):
            with pytest.raises(Invalid) as caught:
                await agent.set_clock(bad)
            assert caught.value.field == "now_ns"
        assert await off(agent) < 0.5


async def test_a_guest_becomes_another(alone: Alone) -> None:
    """With its link down, as it is for a copy; what is its owner's stays, and a second time changes nothing."""
    await alone.hmp("set_link net0 off")
    async with alone.agent() as agent:
        await agent.set_clock(1_500_000_000)
        identity = Identity("copy", ID.upper(), ADDRESS, os.urandom(32))
        await agent.take_identity(identity)
        said = await say(agent, STATE)
        assert await off(agent) < 0.5
        assert said.startswith(
            f"copy\ncopy\n127.0.0.1\tlocalhost\n::1\tlocalhost\n{ADDRESS.ip}\tcopy\n10.1.2.3\tmine\n"
        )
        assert f"127.0.1.1\tcopy.lan copy # ours\n{ID}\nnameserver {ADDRESS.dns}\noptions ndots:2\n" in said
        assert "source" not in said and said.count("inet ") == 1
        assert f"link/ether {ADDRESS.mac} " in said and f"inet {ADDRESS.ip}/24 brd 10.99.7.255 " in said
        assert await say(agent, LINK_LOCAL) in ("", "fe80::11:22ff:fe33:4455")  # of its new MAC, if it had one
        assert f"default via {ADDRESS.gateway} dev eth0" in said and said.count("default") == 1
        assert await say(agent, "cat /etc/systemd/network/a") == f"MAC={ADDRESS.mac}"
        await agent.take_identity(identity)
        assert await say(agent, STATE) == said


async def test_what_is_left_out_stays(alone: Alone) -> None:
    async with alone.agent() as agent:
        before = await say(agent, STATE)
        assert await agent._ask("identity") == {}
        await agent.take_identity(Identity())
        assert await say(agent, STATE) == before
        await agent._ask("identity", mac=ADDRESS.mac)
        changed = await say(agent, STATE)
        assert [line for line in changed.splitlines() if "ether" not in line and "inet6" not in line] == [
            line for line in before.splitlines() if "ether" not in line and "inet6" not in line
        ]
        await agent.take_identity(Identity(machine_id=ID))
        assert (
            await say(agent, "mount -t tmpfs none /mnt; echo x > /mnt/id; mount --bind /mnt/id /etc/machine-id") == ""
        )
        await agent.take_identity(Identity(machine_id=ID))  # it cannot be replaced, but written
        assert await say(agent, "cat /etc/machine-id; umount /etc/machine-id; mount -o remount,ro /") == ID
        await agent.take_identity(Identity("named", "f" * 32, ADDRESS, os.urandom(64)))
        assert await say(agent, "hostname; cat /etc/machine-id; mount -o remount,rw /") == f"named\n{ID}"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("hostname", ["-x", "a b", "a/b", "x" * 65, "é"]),
        ("machine_id", ["0" * 32, "f" * 31, "f" * 33, "g" * 32]),
        ("mac", ["02:11:22:33:44", "03:11:22:33:44:55", " 2:11:22:33:44:55", "00:00:00:00:00:00", "0211223344550000"]),
        ("address", ["", "10.0.0.1", "10.0.0.1/", "10.0.0.1/0", "10.0.0.1/33", "10.0.0/24", "10.0.0.1/2x", "::1/64"]),
        ("gateway", ["", "10.0.0", "10.0.0.1/24"]),
        ("dns", ["name", "10.0.0.1\nsearch x"]),
        ("seed", ["", "00" * 31, "0" * 65, "zz" * 32, "00" * 513]),
        ("now_ns", ["", "0", "-1", "1.5", "1e9", "9" * 30]),
    ],
)  # fmt: skip
async def test_a_malformed_field_is_named_and_nothing_changes(lone: Alone, field: str, values: list[str]) -> None:
    good = {"hostname": "never", "machine_id": ID, "seed": "ab" * 32, "mac": ADDRESS.mac}
    good |= {"address": f"{ADDRESS.ip}/24", "gateway": ADDRESS.gateway, "dns": ADDRESS.dns, "now_ns": str(10**18)}
    async with lone.agent() as agent:
        before = await say(agent, STATE)
        for value in values:
            with pytest.raises(Invalid) as caught:
                await agent._ask("identity", **(good | {field: value}))
            assert caught.value.field == field, value
        assert await say(agent, STATE) == before
        assert await off(agent) < 5


RUNNING = """(while ! [ -e /tmp/go ]; do usleep 50000; done
read drawn < /proc/sys/kernel/random/uuid; echo $drawn > /tmp/drawn) > /dev/null 2>&1 &"""


async def test_copies_of_one_memory_draw_their_own_random_numbers(alone: Alone) -> None:
    """Back to the same memory every time; what ran in it draws its own as well."""
    async with alone.agent() as agent:
        await say(agent, RUNNING)
        await agent.take_identity(Identity(seed=b"source" * 6))  # the kernel will not reseed by itself for some seconds
    await alone.hmp("savevm source")
    drawn = set()
    for number in range(3):
        await alone.hmp("loadvm source")
        async with alone.agent() as agent:
            await agent.take_identity(Identity(f"copy{number}", seed=bytes([number]) * 32))
            drawn.add(await say(agent, DRAW))
            drawn.add(
                await say(agent, "touch /tmp/go; while ! [ -s /tmp/drawn ]; do usleep 10000; done; cat /tmp/drawn")
            )
            assert await say(agent, "hostname") == f"copy{number}"
            assert await off(agent) < 0.5
    assert len(drawn) == 6


SERVER = """mkdir -p /etc/ssh /usr/local/bin; cd /etc/ssh
for k in rsa ed25519; do echo old > ssh_host_${k}_key; echo old > ssh_host_${k}_key.pub; done; echo mine > sshd_config
cat > /usr/local/bin/ssh-keygen <<'END'
#!/bin/sh
[ "$*" = -A ] && sleep 1 && head -c 16 /dev/urandom | md5sum > /etc/ssh/ssh_host_ed25519_key
END
cat > /usr/local/bin/sshd <<'END'
#!/bin/sh
trap 'rm /run/sshd.pid; sleep 0.5; cat /etc/ssh/ssh_host_ed25519_key > /run/key; exec /usr/local/bin/sshd' HUP
echo $$ > /run/sshd.pid
while :; do sleep 0.1; done
END
chmod +x /usr/local/bin/*; (sshd > /dev/null 2>&1 &)
while ! [ -s /run/sshd.pid ]; do sleep 0.1; done"""


async def test_an_ssh_server_has_new_keys_when_the_answer_comes(alone: Alone) -> None:
    """By stand-ins for its programs; the true ones are in the full guests."""
    async with alone.agent() as agent:
        await say(agent, SERVER)
        asking = asyncio.create_task(agent.take_identity(Identity("copy", seed=os.urandom(32))))
        await agent.ping()
        assert not asking.done()  # the agent answers others meanwhile
        await asking
        assert (
            await say(agent, "cd /etc/ssh; ls; cmp ssh_host_ed25519_key /run/key")
            == "ssh_host_ed25519_key\nsshd_config"
        )
        # without files, but with a server that holds keys: again; and when none can be made, that is said
        await say(agent, "rm /etc/ssh/ssh_host_*; echo 'exit 3' > /usr/local/bin/ssh-keygen")
        with pytest.raises(Internal):
            await agent.take_identity(Identity(seed=os.urandom(32)))
