"""The Debian archives that this machine's own apt is configured with; we know no mirror by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit


@dataclass(frozen=True, slots=True)
class Source:
    """One archive, suite by suite."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self, *, public: bool = False) -> str:
        """In apt's one-line form; `public` leaves out a password in the address."""
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{_public(self.uri) if public else self.uri} {self.suite} {' '.join(self.components)}"


def _public(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def debian_sources(codename: str, apt: Path = Path("/etc/apt")) -> list[Source]:
    """Those for that release of Debian and its updates; others' packages for it are left out."""
    suites = (codename, f"{codename}-updates", f"{codename}-security", f"{codename}/updates")
    found = [
        source
        for path in sorted([apt / "sources.list", *apt.glob("sources.list.d/*")])
        if path.is_file()
        for source in _parse(path)
        if source.suite in suites and "main" in source.components
    ]
    return list(dict.fromkeys(found))


def _parse(path: Path) -> Iterator[Source]:
    text = path.read_text("utf-8", "replace")
    if path.suffix == ".sources":
        for stanza in re.split(r"\n\s*\n", text):
            yield from _stanza(stanza)
    elif path.suffix == ".list":
        for line in text.splitlines():
            yield from _line(line)


def _stanza(stanza: str) -> Iterator[Source]:
    lines = [line for line in stanza.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\n[ \t]+", " ", "\n".join(lines))
    fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in joined.splitlines())}
    if fields.get("enabled", "yes").lower() == "no" or "deb" not in fields.get("types", "").split():
        return
    key = fields.get("signed-by", "")
    key = key if key.startswith("/") else ""  # a key in the text itself cannot be said in one line
    for uri in fields.get("uris", "").split():
        for suite in fields.get("suites", "").split():
            for real in _mirrors(uri):
                yield Source(real, suite, tuple(fields.get("components", "").split()), key)


def _line(line: str) -> Iterator[Source]:
    match = re.fullmatch(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+?)\s*(?:#.*)?", line.strip())
    if not match:
        return
    options = dict(option.partition("=")[::2] for option in (match[1] or "").split())
    for real in _mirrors(match[2]):
        yield Source(real, match[3], tuple(match[4].split()), options.get("signed-by", ""))


def _mirrors(uri: str) -> list[str]:
    """Cloud images keep the address in a file of mirrors, which a guest would not have; its first is taken."""
    if not uri.startswith("mirror+file:"):
        return [uri]
    try:
        lines = Path(uri.removeprefix("mirror+file:")).read_text().split()
    except OSError:
        return []
    return lines[:1]
