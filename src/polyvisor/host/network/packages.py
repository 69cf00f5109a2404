"""Where this host's own package managers get packages: the names in the settings of apt, pip and npm."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from polyvisor.model.egress import parse_domain
from polyvisor.model.faults import Invalid

_URL = re.compile(r"https?://(?:[^/\s@]*@)?([A-Za-z0-9._-]+)")
_APT = re.compile(r"\s*(deb(-src)?\s|uris:)", re.IGNORECASE)
_PIP = re.compile(r"\s*(extra-index-url|index-url|find-links)\s*=", re.IGNORECASE)
_NPM = re.compile(r"\s*(@[^:=\s]+:)?registry\s*=", re.IGNORECASE)
_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "NPM_CONFIG_REGISTRY", "npm_config_registry")


def names_in(text: str, line: re.Pattern[str]) -> Iterator[str]:
    """The hosts of the URLs in lines that begin so, and in those indented ones that go on with them."""
    goes_on = False
    for one in text.splitlines():
        goes_on = bool(line.match(one)) or (goes_on and one[:1].isspace())
        if goes_on:
            yield from names_of(one)


def names_of(text: str) -> Iterator[str]:
    """The hosts of the URLs in a text, those that are names."""
    for host in _URL.findall(text):
        with contextlib.suppress(Invalid):
            yield parse_domain(host)


def registries(variables: Mapping[str, str], root: Path = Path("/")) -> tuple[str, ...]:
    """All of them, in order, each once; `variables` are the environment's."""
    home = Path(variables.get("HOME") or "/nonexistent")
    settings = Path(variables.get("XDG_CONFIG_HOME") or home / ".config")
    apt, npm = root / "etc/apt", variables.get("NPM_CONFIG_USERCONFIG") or home / ".npmrc"
    sources = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]
    places = [(file, _APT) for file in (*sources, *sorted(apt.glob("sources.list.d/*.sources")))]
    pip = [root / "etc/pip.conf", settings / "pip/pip.conf", home / ".pip/pip.conf"]
    pip += [Path(variables[name]) for name in ("PIP_CONFIG_FILE",) if variables.get(name)]
    places += [(file, _PIP) for file in pip] + [(file, _NPM) for file in (root / "etc/npmrc", Path(npm))]
    found: dict[str, None] = {}
    for file, line in places:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found.update(dict.fromkeys(names_in(file.read_text(), line)))
    for name in _VARIABLES:
        found.update(dict.fromkeys(names_of(variables.get(name, ""))))
    return tuple(found)
