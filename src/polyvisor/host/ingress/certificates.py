"""What Caddy has of the certificate of a name, read where it keeps it, and of why it has none, in its log."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from polyvisor.host.ingress.document import LOG, OWN, Settings
from polyvisor.model.ingress import Certificate

_LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"  # Caddy's, where none is named
_OF_LOG = 256 * 1024  # so much of its end is read
_LONGEST = 300


def look(folder: Path, site: str, settings: Settings, since: datetime, *, served: bool) -> Certificate:
    """How it stands with a name, no pattern. `folder` is Caddy's working directory."""
    kept = _kept(folder) / issuer(settings) / site / site
    until, key = _until(kept.with_name(f"{site}.crt")), kept.with_name(f"{site}.key").exists()
    error = "" if until is not None else _trouble(folder / LOG, site, since)
    return Certificate(until, key, served, error)


def forget(folder: Path, site: str) -> None:
    """Certificates and keys of that name, whoever gave them."""
    for kept in _kept(folder).glob("*"):
        shutil.rmtree(kept / site, ignore_errors=True)


def issuer(settings: Settings) -> str:
    """How Caddy calls an authority in file names."""
    if not settings.public:
        return "local"
    url = urlsplit(settings.ca or _LETS_ENCRYPT)
    path = re.sub(r"[/\\]", "-", url.path).strip("-")
    return "-".join(filter(None, (url.netloc, path))).lower().replace(":", "-")


def _kept(folder: Path) -> Path:
    return folder / OWN / "data/certificates"


def _until(file: Path) -> datetime | None:
    """The end of a certificate in force."""
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError):
        return None
    now = datetime.now(UTC)
    return found.not_valid_after_utc if found.not_valid_before_utc <= now < found.not_valid_after_utc else None


def _trouble(log: Path, site: str, since: datetime) -> str:
    """The last reason why there is none."""
    found = ""
    for line in _lines(log):
        said = line.get("error")
        if line.get("identifier") == site and isinstance(said, str) and _at(line) >= since:
            found = said
    return found[:_LONGEST]


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _OF_LOG))
            words = file.read(_OF_LOG).splitlines()
    except OSError:
        return
    for word in words:
        try:
            line = json.loads(word)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _at(line: dict[str, Any]) -> datetime:
    at = line.get("ts")
    return datetime.fromtimestamp(at if isinstance(at, int | float) else 0, UTC)
