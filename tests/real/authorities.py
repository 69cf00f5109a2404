"""Debian's pebble, an authority for certificates that a test has to itself (ACME, RFC 8555)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nameserver import NameServer
from real.registries import certified

LIMIT = 20.0


@dataclass(frozen=True)
class Authority:
    """`directory` is its URL, which it serves with a certificate of `root`; those that it gives are of `issued`."""

    directory: str
    root: Path
    issued: Path


@contextmanager
def authority_in(folder: Path, names: NameServer) -> Iterator[Authority]:
    """One that looks names up there, and asks at ports 80 and 443 of where they lead."""
    if not shutil.which("pebble"):
        pytest.skip("pebble is not installed")
    folder.mkdir()
    port, management = _free(), _free()
    settings = {
        "listenAddress": f"127.0.0.1:{port}", "managementListenAddress": f"127.0.0.1:{management}",
        **certified(folder, "localhost"), "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }  # fmt: skip
    settings["privateKey"] = settings.pop("key")
    (folder / "config.json").write_text(json.dumps({"pebble": settings}))
    argv = ["pebble", "-config", str(folder / "config.json"), "-dnsserver", f"{names.host}:{names.port}"]
    env = {"PATH": os.environ["PATH"], "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
    try:
        found = Authority(f"https://localhost:{port}/dir", folder / "ca.crt", folder / "issued.pem")
        found.issued.write_bytes(_told(f"https://localhost:{management}/roots/0", found.root, process))
        yield found
    finally:
        process.terminate()
        process.wait(10)


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _told(url: str, root: Path, process: subprocess.Popen[bytes]) -> bytes:
    """What is there, once somebody answers."""
    open_ = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=root)),
    ).open
    end = time.monotonic() + LIMIT
    while True:
        with contextlib.suppress(OSError), open_(url, timeout=5) as answer:
            return bytes(answer.read())
        assert time.monotonic() < end and process.poll() is None, "pebble does not answer"
        time.sleep(0.05)
