"""The systems of the Hanzo dialect that its operator gives: disk images fetched by URL, verified, and booted."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from polyvisor.dialects.hanzo.catalog import SYSTEMS
from real.conftest import finish, share
from real.systems import system
from real.visors import Visor
from serving import Server

NAMES = [name for name in SYSTEMS if name != "debian-12"]
SAYS = """
echo "this is {}" > /dev/ttyS0
while :; do /bin/busybox sleep 60; done
"""


@pytest.fixture(scope="module")
def disks(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of bootable disks, each with a system that says whose it is."""
    folder = tmp_path_factory.mktemp("disks")
    for name in NAMES:
        medium = tmp_path_factory.mktemp(name)
        system(base, medium, SAYS.format(name), ())
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(medium / "boot.iso"), str(folder / name)]
        subprocess.run(convert, check=True, timeout=60)
    (folder / "tampered").write_bytes(b"not what was promised")
    return folder


@pytest.fixture(scope="module")
def server(base: Server, disks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose settings name those disks by URLs on loopback."""
    folder = tmp_path_factory.mktemp("systems")
    share(base.data, folder / "data")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in disks.iterdir()}
    sums["tampered"] = hashlib.sha256(b"what was promised").hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=str(disks))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever).start()
        url = f"http://127.0.0.1:{http.server_port}"
        settings = folder / "settings.toml"
        settings.write_text(
            "".join(f'[os_images."{name}"]\nurl = "{url}/{name}"\nsha256 = "{sum}"\n' for name, sum in sums.items())
        )
        server = Server(folder / "data", "--config", str(settings)).start()
        yield server
        finish(server)
        http.shutdown()


@pytest.mark.parametrize("name", NAMES)
async def test_each_name_boots_what_the_operator_gave(server: Server, name: str) -> None:
    visor = Visor(server)
    where = {"organizationId": visor.organization, "region": "us-east"}
    made = await asyncio.to_thread(visor.ok, "POST vm.launch", 201, name=f"of {name}", plan="nano", os=name, **where)
    said, key = b"", made["id"].removeprefix("vm_")
    async with asyncio.timeout(120), server.client() as client, client.instances.console(key) as console:
        async for piece in console:
            said += piece
            if f"this is {name}".encode() in said:
                break
    visor.ok("DELETE vm.destroy", 204, vmId=made["id"])


def test_one_that_is_not_what_the_settings_say_is_refused(server: Server) -> None:
    visor = Visor(server)
    body = {"organizationId": visor.organization, "name": "no", "plan": "nano", "region": "us-east", "os": "tampered"}
    told = visor.refused("POST vm.launch", 502, **body)
    assert "checksum" in told
    assert [one["name"] for one in visor.ok("GET vm.all", organizationId=visor.organization)] == []
