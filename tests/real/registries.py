"""Debian's docker-registry on a free loopback port, and what tests put there."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LIMIT = 20.0


@contextmanager
def registry_in(root: Path, name: str = "") -> Iterator[str]:
    """Its `host:port`. With a `name` it speaks TLS, under that name, with the certificate in `ca.crt`."""
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = {"filesystem": {"rootdirectory": str(root / "store")}}
    listen: dict[str, Any] = {"addr": f"127.0.0.1:{port}"}
    if name:
        listen["tls"] = certified(root, name)
    settings = {"version": "0.1", "storage": store, "http": listen}
    (root / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    argv = ["docker-registry", "serve", str(root / "config.yml")]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + LIMIT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < end and process.poll() is None, "the registry does not answer"
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def certified(root: Path, name: str) -> dict[str, str]:
    """A key and a certificate of its own for that name, as files there."""
    key, certificate = root / "key.pem", root / "ca.crt"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    argv += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key)]
    subprocess.run([*argv, "-out", str(certificate)], check=True, capture_output=True)
    return {"certificate": str(certificate), "key": str(key)}


def push(layout: Path, where: str) -> str:
    """The digest that the registry has it under."""
    argv = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
    subprocess.run([*argv, f"oci:{layout}", f"docker://{where}"], check=True, capture_output=True)
    return str(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])
