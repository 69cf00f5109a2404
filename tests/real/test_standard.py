"""The image to run code in: what is in it, and that its sessions are notebooks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from polyvisor.client import Client
from polyvisor.wire.native import CreateTemplate
from real.guests import Guests, lasting
from real.test_code import run, says
from serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.lengthy, pytest.mark.timeout(900)]
WHEEL = r"""
import zipfile
with zipfile.ZipFile("/tmp/little-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("little.py", "SIZE = 'little'\n")
    wheel.writestr("little-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: little\nVersion: 1.0\n")
    wheel.writestr("little-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("little-1.0.dist-info/RECORD", "little.py,,\nlittle-1.0.dist-info/RECORD,,\n")
"""


@pytest.fixture(scope="module")
def vm(base: Server, standard: str) -> Iterator[str]:
    """A guest of it."""
    with lasting(base, standard, memory="512M", timeout=300.0) as id:
        yield id


async def test_python_is_a_notebook(client: Client, vm: str) -> None:
    assert await says(client, vm, "import os\nos.getcwd()", timeout=200) == "'/app'\n"
    assert await says(client, vm, "a = !echo shell\na") == "['shell']\n"
    ran = await run(client, vm, "def f():\n    return 1 / 0\nf()")
    assert ran.exit_code == 1 and "ZeroDivisionError" in ran.stderr and ran.stdout == ""
    assert (await run(client, vm, "exit(3)")).exit_code == 3
    await says(client, vm, WHEEL)
    ran = await run(client, vm, "pip install --no-index /tmp/little-1.0-py3-none-any.whl", timeout=280)
    assert (ran.exit_code, "Successfully installed little-1.0" in ran.stdout) == (0, True), ran
    assert await says(client, vm, "import little\nlittle.SIZE") == "'little'\n"


async def test_what_one_builds_with_is_there(client: Client, vm: str) -> None:
    script = """
        set -e
        for one in node npm git curl wget gcc make rsync ssh scp sudo ps ip; do command -v $one >/dev/null; done
        printf 'int main(void) { return 7; }' > x.c
        gcc -o x x.c
        ./x || echo $?
        su appuser -c 'sudo id -u; cd; pwd; touch /app/mine'
        id -u
    """
    assert await says(client, vm, script, language="bash", timeout=280) == "7\n0\n/home/appuser\n0\n"


async def test_a_template_has_the_session_up(client: Client, guests: Guests, standard: str) -> None:
    began = time.monotonic()
    made = await client.templates.create(CreateTemplate(image=standard, memory="513M", code=True))
    print(f"template: {time.monotonic() - began:.1f} s")
    try:
        vm = await guests.boot(standard, memory="513M")
        assert vm.origin == made.id
        ran = await run(client, vm.id, "import sys\n'IPython' in sys.modules")
        assert ran.stdout == "True\n"
        print(f"first call in a copy: {ran.execution_time:.2f} s")
        await asyncio.gather(*(says(client, vm.id, "1") for _ in range(3)))
    finally:
        await guests.discard()
        await client.templates.delete(made.id)
