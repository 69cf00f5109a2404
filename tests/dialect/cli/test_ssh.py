"""ssh-key: add, ls, rm."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from dialect.cli.conftest import Shell


def test_keys_come_and_go(shell: Shell, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", str(tmp_path / "k")], check=True)
    fingerprint = shell.ok("ssh-key", "add", str(tmp_path / "k.pub")).strip()
    said = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(tmp_path / "k.pub")], check=True, capture_output=True, text=True
    )
    assert said.stdout.split()[1] == fingerprint
    assert fingerprint in shell.ok("ssh-key", "ls")
    found = json.loads(shell.ok("ssh-key", "ls", "--json"))
    key = next(one for one in found if one["fingerprint"] == fingerprint)
    assert key["comment"] == "me"
    shell.ok("ssh-key", "rm", str(key["id"]))
    assert fingerprint not in shell.ok("ssh-key", "ls")
    assert shell("ssh-key", "rm", str(key["id"])).returncode == 1
