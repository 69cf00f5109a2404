"""A life by upstream's TypeScript client, in Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from real.archives import docker_save, entry
from real.test_image_sources import shell
from serving import Server

CLIENT = "@onkernel/hypeman@0.28.0"
INTEGRITY = "sha512-KMhKkeKZiCgbDHBawMvTGYhaWrQHru3etTWWRumReNDdSXmlj6y+7jjxEI4v8nDB1iMIo/5wXrgfqrDZJNcNUw=="
SAYS = {"Cmd": ["/bin/sh", "-c", "cat /hello; sleep 3600"], "Env": ["PATH=/bin"]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds the client."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node or npm is not installed")
    folder = tmp_path_factory.mktemp("client")
    (folder / "package.json").write_text("{}")
    argv = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev", CLIENT]
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not end here")
    if done.returncode:
        pytest.skip(f"npm could not install {CLIENT}: {done.stderr.strip()[-300:]}")
    lock = json.loads((folder / "node_modules/.package-lock.json").read_text())
    assert lock["packages"]["node_modules/@onkernel/hypeman"]["integrity"] == INTEGRITY
    shutil.copy(Path(__file__).with_name("journey.cjs"), folder)
    return folder


def test_push_create_copy_logs_stop_delete(base: Server, client: Path, tmp_path: Path) -> None:
    files = tmp_path / f"t{uuid.uuid4().hex[:8]}"
    files.mkdir()
    archive = docker_save(tmp_path / "app.tar", shell(entry("hello", b"pushed and alive\n")), says=SAYS)
    argv = ["node", "journey.cjs", base.facts["url"], base.facts["api_key"], str(archive), f"team/{files.name}:v1"]
    done = subprocess.run(
        [*argv, str(files)], cwd=client, capture_output=True, text=True, timeout=400, check=False,
        env=os.environ | {"NO_PROXY": "*"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["hello"], found["state"]) == ("pushed and alive\n", "Stopped")
    assert "pushed and alive" in found["line"]
    assert found["digest"].startswith("sha256:")
