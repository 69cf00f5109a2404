"""The Hanzo dialect on a real machine: its terminal in a browser, volumes, and who is refused."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from polyvisor.client import Client
from real.guests import Guests, lasting, sh
from real.screens import keep
from real.visors import Visor, browser
from serving import Server

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def vm(base: Server) -> Iterator[str]:
    """A small machine that another dialect made."""
    with lasting(base, name="hanzo-terminal") as id:
        yield f"vm_{id}"


@pytest.fixture
def visor(base: Server) -> Visor:
    """The operator."""
    return Visor(base)


def test_a_terminal_in_a_browser(base: Server, visor: Visor, vm: str, tmp_path: Path) -> None:
    page = visor.ok("GET vm.terminal", vmId=vm)["page"]
    assert page == f"{base.facts['url']}/api/vm.terminal.html?vmId={vm}"
    folder = tmp_path / "chromium"
    folder.mkdir()
    with browser(folder) as chromium:
        chromium.call("Page.enable")
        chromium.call("Page.navigate", url=f"{page}#token={visor.token}")
        connected = "document.getElementById('state')?.textContent.startsWith('Connected')"
        chromium.until(connected)
        assert "token" not in chromium.evaluate("location.href")
        chromium.type("echo $((6 * 7)) from the guest; uname")
        chromium.says("42 from the guest\nLinux")

        def size() -> str:
            return str(chromium.evaluate("terminal.rows + ' ' + terminal.cols"))

        first = size()
        chromium.type("stty size")
        chromium.says(f"\n{first}\n")
        chromium.call(
            "Emulation.setDeviceMetricsOverride", width=1400, height=900, deviceScaleFactor=1, mobile=False
        )  # fmt: skip
        chromium.until(f"terminal.rows + ' ' + terminal.cols !== '{first}'")
        chromium.type("echo and; stty size")
        chromium.says(f"\nand\n{size()}\n")
        keep("hanzo-terminal.png", chromium.picture())
        chromium.evaluate("window.before = true")
        chromium.call("Page.reload")
        chromium.until(f"!window.before && {connected}")
        assert "and" not in chromium.text()  # another shell
        chromium.type("echo again: $((40 + 2))")
        chromium.says("again: 42")


def test_bytes_pass_and_strangers_do_not(visor: Visor, vm: str) -> None:
    address = visor.ok("GET vm.terminal", vmId=vm)["url"]
    with connect(address, proxy=None) as socket:
        socket.send("stty -echo; printf 'a\\000\\377b'; exit 5\n")
        said = b""
        for piece in socket:
            assert isinstance(piece, bytes)
            said += piece
        assert b"a\x00\xffb" in said
    bare = address.partition("&token=")[0]
    refused: list[tuple[str, dict[str, str]]] = [(address, {}), (bare, {}), (f"{bare}&token=wrong", {})]
    for url, headers in [*refused, (f"{bare}&token={visor.token}", {"Origin": "http://elsewhere.example"})]:
        with pytest.raises(InvalidStatus) as caught, connect(url, proxy=None, additional_headers=headers):
            pass
        assert caught.value.response.status_code == (403 if headers else 401)
        assert json.loads(caught.value.response.body)["error"]["code"] in ("UNAUTHORIZED", "FORBIDDEN")


async def test_volumes_are_mounted_grown_and_kept(client: Client, visor: Visor, vm: str) -> None:
    """One of this dialect's, and a medium of another one's that nothing was ever written to: it gets a file system."""
    key, where = vm.removeprefix("vm_"), {"organizationId": visor.organization, "region": "us-east"}
    visor.ok("POST volume.create", 201, name="h-data", sizeGb=10, **where)
    body = {"mpid": 0, "gid": 0, "name": "h-raw", "type": "disk", "size": 10 * 1024**3}
    visor.raw("PUT", "/m/media/create", body)
    made = {one["name"]: one["id"] for one in visor.ok("GET volume.all", organizationId=visor.organization)}
    try:
        for name in ("h-data", "h-raw"):
            place = {"vmId": vm, "volumeId": made[name]}
            assert visor.ok("POST vm.attachVolume", mountPath=f"/{name}", **place)["mounted"] is True
            await sh(client, key, f"echo here > /{name}/file; mount | grep ' /{name} type ext4'")
            assert visor.ok("POST volume.resize", volumeId=made[name], sizeGb=20)["sizeGb"] == 20
            kilobytes = int(await sh(client, key, f"df -k /{name} | tail -n 1 | awk '{{print $2}}'"))
            assert kilobytes > 15 * 1024**2  # it has grown while it was mounted
            visor.ok("POST vm.detachVolume", **place)
            visor.ok("POST vm.attachVolume", mountPath=f"/{name}", **place)
            assert await sh(client, key, f"cat /{name}/file") == "here"
            visor.ok("POST vm.detachVolume", **place)
    finally:
        for name in ("h-data", "h-raw"):
            visor.ok("DELETE volume.remove", 204, volumeId=made[name])


GIBIBYTE = 1024**3
PIECE = 16 * 1024**2


@pytest.mark.lengthy
@pytest.mark.timeout(900)
async def test_a_gibibyte_goes_on_to_another_machine(client: Client, visor: Visor, guests: Guests) -> None:
    """Written, detached, its machine destroyed, attached to another one: the same bytes."""
    first, second = await guests.boot(), await guests.boot()
    where = {"organizationId": visor.organization, "region": "us-east"}
    volume = visor.ok("POST volume.create", 201, name="h-gibibyte", sizeGb=10, **where)["id"]
    place = {"volumeId": volume, "mountPath": "/data"}
    piece = random.randbytes(PIECE)  # an emulated machine takes minutes to make a gibibyte of them
    expected = hashlib.md5(usedforsecurity=False)
    for number in range(GIBIBYTE // PIECE):
        expected.update(b"%08d" % number + piece[8:])
    try:
        visor.ok("POST vm.attachVolume", vmId=f"vm_{first.id}", **place)
        each = "printf %08d $number; cat /dev/shm/piece"
        loop = (
            f"number=0; while [ $number -lt {GIBIBYTE // PIECE} ]; do {each}; number=$((number + 1)); done > /data/file"
        )
        put = "mkdir -p /dev/shm; tail -c +9 > /dev/shm/piece"
        await sh(client, first.id, f"{put}; {loop}", stdin=piece)
        visor.ok("POST vm.detachVolume", vmId=f"vm_{first.id}", volumeId=volume)
        visor.ok("DELETE vm.destroy", 204, vmId=f"vm_{first.id}")
        visor.ok("POST vm.attachVolume", vmId=f"vm_{second.id}", **place)
        assert (await sh(client, second.id, "md5sum < /data/file")).split()[0] == expected.hexdigest()
    finally:
        await guests.discard()
        visor.ok("DELETE volume.remove", 204, volumeId=volume)
