"""Upstream's client of the VergeOS dialect over TLS, and what its tests look at beside it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyvergeos import VergeClient

from serving import Server


class Verge:
    """Upstream's client of one server, and what a test wants to know beside it."""

    def __init__(self, server: Server) -> None:
        told = json.loads((server.data / "bootstrap.json").read_text())
        self.server = server
        self.url = str(told["tls_url"])
        self.key = str(told["api_key"])
        self.password = str(told["admin"]["password"])
        self.sdk = VergeClient(
            host=self.url.removeprefix("https://"), username=told["admin"]["username"], password=self.password,
            verify_ssl=False,
        )  # fmt: skip

    def vm(self, **more: Any) -> Any:
        """A new VM."""
        return self.sdk.vms.create(**{"name": "v" + uuid.uuid4().hex[:10], "ram": 512, "cpu_cores": 1, **more})

    def until(self, vm: Any, word: str, limit: float = 30) -> Any:
        """The VM once it is that."""
        return eventually(lambda: now if (now := vm.refresh()).get("status") == word else None, limit)

    def volume(self, drive: Any) -> Path:
        """The file behind a drive, which is the only new one of its size."""
        files = [
            one for one in (self.server.data / "volumes").glob("*.raw") if one.stat().st_size == drive.get("disksize")
        ]
        return max(files, key=lambda one: one.stat().st_mtime)


def eventually(look: Callable[[], Any], limit: float) -> Any:
    """What `look` finds, as soon as it finds something."""
    end = time.monotonic() + limit
    while not (found := look()):
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.1)
    return found


def sector(disk: Path, number: int) -> str:
    """The text in a sector of a disk."""
    with disk.open("rb") as file:
        file.seek(number * 512)
        return file.read(512).rstrip(b"\0 ").decode()
