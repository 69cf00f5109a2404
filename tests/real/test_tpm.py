"""A TPM: what it remembers is its machine's alone, and who answers for it ends with the machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from polyvisor.client import Client, Refused
from polyvisor.host.hypervisor.qemu.tpm import is_installed
from polyvisor.wire.native import Instance
from real.systems import system
from real.test_media import Media
from serving import Server, await_gone, machines_of

pytestmark = pytest.mark.skipif(not is_installed(), reason="swtpm is not installed")
_SESSION = b"\0\0\0\x09\x40\0\0\x09\0\0\0\0\0"  # of who needs no password
EXTEND = b"\x80\x02\0\0\0\x41\0\0\x01\x82\0\0\0\x10" + _SESSION + b"\0\0\0\x01\0\x0b" + b"p" * 32
OWN = b"\x80\x02\0\0\0\x1f\0\0\x01\x29\x40\0\0\x01" + _SESSION + b"\0\x02pv"
SCRIPT = """
/bin/busybox mkdir -p /sys
/bin/busybox mount -t sysfs none /sys
exec >/dev/ttyS0 2>&1 3<>/dev/tpm0
say() {{ /bin/busybox printf "$1" >&3; /bin/busybox dd bs=4096 count=1 <&3 | /bin/busybox od -An -tx1 -j6 -N4; }}
echo "owned $(say '{own}' 2>/dev/null)"
echo "extended $(say '{extend}' 2>/dev/null)"
while :; do echo "register $(/bin/busybox cat /sys/class/tpm/tpm0/pcr-sha256/16)"; /bin/busybox sleep 1; done
"""
WELL, DENIED = "owned  00 00 00 00", "owned  00 00 09 a2"
LIMIT = 120.0
Make = Callable[..., Server]


def octal(data: bytes) -> str:
    """As `printf` takes it."""
    return "".join(f"\\{byte:03o}" for byte in data)


def helpers(data: Path) -> list[int]:
    """The pids of every swtpm that works below `data`."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "comm").read_text().strip() == "swtpm":
                found += [int(folder.name)] * (folder / "cwd").readlink().is_relative_to(data.resolve())
        except OSError:
            continue
    return found


def uid_of(pid: int | None) -> int:
    """Whose that process is."""
    return Path(f"/proc/{pid}").stat().st_uid


class Console:
    """What a machine writes there, from where we are on."""

    def __init__(self, server: Server, vm: Instance) -> None:
        self._file = server.data / "instances" / vm.id / "console.log"
        self._read = 0

    async def line(self, word: str) -> str:
        """The next one that begins with it, once it is whole; what comes before it is passed over."""
        async with asyncio.timeout(LIMIT):
            while True:
                text = self._file.read_bytes()[self._read :]
                for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
                    self._read += len(line)
                    if line.startswith(word.encode()):
                        return line.decode().strip()
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def iso(base: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A guest that makes the TPM its own, extends a register of it and tells that again and again."""
    script = SCRIPT.format(own=octal(OWN), extend=octal(EXTEND))
    return system(base, tmp_path_factory.mktemp("tpm"), script, ())


@pytest.fixture
async def machine(another: Make, iso: bytes) -> AsyncIterator[tuple[Server, Instance]]:
    """One that boots it, on a server of its own."""
    server = another()
    async with server.client() as client:
        medium = await Media(client).upload(iso, "ISO", read_only=True)
        server.cli(
            "assemble", "--tpm", "--medium", f"{medium.name}:usb:ro", "--firmware", "bios", "-m", "256M",
            "--no-network", "--display", "", "it", check=True,
        )  # fmt: skip
        yield server, await client.instances.get("it")


async def test_it_is_its_machines_alone(machine: tuple[Server, Instance]) -> None:
    server, vm = machine
    console = Console(server, vm)
    assert vm.tpm
    assert await console.line("owned") == WELL
    register = await console.line("register")
    assert register.removeprefix("register ").strip("0")
    (helper,) = helpers(server.data)
    assert uid_of(helper) == uid_of(vm.pid)
    assert os.geteuid() != 0 or uid_of(helper) != 0
    server.kill()
    server.start()
    async with server.client() as client:
        assert (await client.instances.get("it")).pid == vm.pid
        assert helpers(server.data) == [helper]
        await _slept(server, client, console, register)
        await client.instances.stop("it", force=True, wait="launched")
        assert helpers(server.data) == []
        await client.instances.start("it", wait="launched")
        assert await console.line("owned") == DENIED  # it remembers whose it is
        await _killed(server, client)
        await client.instances.delete("it", force=True, wait="launched")
    assert helpers(server.data) == []
    assert not (server.data / "instances" / vm.id).exists()


async def _slept(server: Server, client: Client, console: Console, register: str) -> None:
    """What it does not remember over a loss of power is as it was after a standby."""
    await client.instances.standby("it", wait="launched")
    assert helpers(server.data) == []
    await client.instances.restore("it", wait="launched")
    assert len(helpers(server.data)) == 1
    for _ in range(3):  # the first may be of before
        assert await console.line("register") == register


async def _killed(server: Server, client: Client) -> None:
    """Whichever of the two dies, none stays behind."""
    (helper,), (hypervisor,) = helpers(server.data), machines_of(server.data)
    os.kill(helper, signal.SIGKILL)
    await_gone([helper])
    assert machines_of(server.data) == [hypervisor]
    with pytest.raises(Refused) as caught:
        await client.instances.standby("it", wait="launched")
    assert (caught.value.kind, (await client.instances.get("it")).state) == ("Unsupported", "running")
    await client.instances.stop("it", force=True, wait="launched")
    assert machines_of(server.data) == []
    await client.instances.start("it", wait="launched")
    (hypervisor,) = machines_of(server.data)
    found = helpers(server.data)
    os.kill(hypervisor, signal.SIGKILL)
    await_gone([hypervisor, *found])


async def test_one_that_is_left_over_is_ended(machine: tuple[Server, Instance]) -> None:
    """It does not hear that its machine has ended: it is stopped. The next server looks for such."""
    server, vm = machine
    (helper,) = helpers(server.data)
    server.kill()
    os.kill(helper, signal.SIGSTOP)
    assert vm.pid
    os.kill(vm.pid, signal.SIGKILL)
    await_gone([vm.pid])
    assert helpers(server.data) == [helper]
    server.start()
    await_gone([helper])
