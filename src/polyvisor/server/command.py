"""What the CLI calls for the two commands that are the server itself and not a client of it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from polyvisor.model.faults import Fault
from polyvisor.server.config import Config, load
from polyvisor.server.doctor import Finding, examine
from polyvisor.server.serve import serve_forever


def _settings(config: str | None, flags: Mapping[str, str | None]) -> Config | None:
    try:
        return load(Path(config) if config else None, flags)
    except Fault as fault:
        sys.stderr.write(f"error: {fault.public}\n")
        return None


def serve(*, config: str | None, flags: Mapping[str, str | None], log_level: str = "info") -> int:
    """Run the server in the foreground; the exit status."""
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = _settings(config, flags)
    if settings is None:
        return 2
    try:
        asyncio.run(serve_forever(settings))
    except Fault as fault:
        sys.stderr.write(f"error: {fault.public}\n" + (f"  {fault.private}\n" if fault.private else ""))
        return 1
    except OSError as error:  # the data directory, most of the time: its name is in the text
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def doctor(*, config: str | None, flags: Mapping[str, str | None], as_json: bool) -> int:
    """Say what this host can do; 1 when something that the settings need is missing."""
    settings = _settings(config, flags)
    if settings is None:
        return 2
    findings = asyncio.run(examine(settings))
    if as_json:
        rows = [{"name": f.name, "ok": f.ok, "needed": f.needed, "text": f.text} for f in findings]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{_mark(f):7} {f.name:14} {f.text}\n" for f in findings)
    return 1 if any(f.needed and not f.ok for f in findings) else 0


def _mark(finding: Finding) -> str:
    if finding.ok:
        return "ok"
    return "MISSING" if finding.needed else "no"
