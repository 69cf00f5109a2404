"""Which server to talk to, and as whom. The only module of the CLI that reads the environment.

`POLYVISOR_URL` and `POLYVISOR_API_KEY`, else what the server wrote into `bootstrap.json` of its data directory, which
is `POLYVISOR_DATA` or the default one. The file's key is shown to the file's own addresses only. `POLYVISOR_PROJECT` is
the project to act in, if not the key's own.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Settings:
    """A server, a key for it, whose certificates to believe and in which project to act; "" where there is none."""

    url: str
    key: str
    ca_file: str
    project: str = ""


class Unset(Exception):
    """There is nothing that says which server to talk to, or as whom."""


def variable(name: str) -> str | None:
    """A variable of the environment: `TERM`, or one that `--env NAME` passes on."""
    return os.environ.get(name)


def completing() -> bool:
    """Whether a shell asks us to complete a word."""
    return "_POLYVISOR_COMPLETE" in os.environ


def data_directory() -> Path:
    """`POLYVISOR_DATA`, or where a server keeps its data unless told otherwise."""
    if told := os.environ.get("POLYVISOR_DATA"):
        return Path(told)
    if xdg := os.environ.get("XDG_DATA_HOME"):
        return Path(xdg) / "polyvisor"
    return Path("/var/lib/polyvisor") if os.geteuid() == 0 else Path.home() / ".local/share/polyvisor"


def load() -> Settings:
    """The settings. :raise Unset: with what to do about it."""
    url, key = os.environ.get("POLYVISOR_URL", ""), os.environ.get("POLYVISOR_API_KEY", "")
    ca_file, project = os.environ.get("POLYVISOR_CA_FILE", ""), os.environ.get("POLYVISOR_PROJECT", "")
    if url and key:
        return Settings(url, key, ca_file or _known_ca(url), project)
    facts = _bootstrap()
    own = [str(facts.get(name) or "") for name in ("url", "tls_url")]
    url = url or own[0] or _DEFAULT_URL
    if not key:
        if url.rstrip("/") not in own:
            raise Unset(f"no key for {url}: set POLYVISOR_API_KEY")
        key = str(facts["api_key"])
    return Settings(url, key, ca_file or _known_ca(url), project)


def signing_secret() -> str:
    """What the local server signs tokens with. :raise Unset: there is no local server, or it is not ours to read."""
    secret = _bootstrap().get("jwt_secret")
    if not isinstance(secret, str) or not secret:
        raise Unset(f"{data_directory() / 'bootstrap.json'}: holds no secret")
    return secret


def _known_ca(url: str) -> str:
    """The local server's own certificate, when it is the local server that we talk to."""
    try:
        facts = _bootstrap()
    except Unset:
        return ""
    return str(facts.get("ca_file") or "") if url.rstrip("/") == facts.get("tls_url") else ""


def _bootstrap() -> dict[str, Any]:
    file = data_directory() / "bootstrap.json"
    try:
        facts = json.loads(file.read_text())
    except FileNotFoundError as error:
        hint = "start `polyvisor serve`, or set POLYVISOR_URL and POLYVISOR_API_KEY (or POLYVISOR_DATA)"
        raise Unset(f"no server is known: there is no {file}; {hint}") from error
    except (OSError, ValueError) as error:
        raise Unset(f"{file}: cannot be read: {error}") from error
    if not isinstance(facts, dict) or "api_key" not in facts:
        raise Unset(f"{file}: is not a bootstrap file")
    return facts
