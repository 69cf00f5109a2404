"""What a Dockerfile says of the images it begins from. It is followed in a guest; here only its `FROM`s are read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})")
_FLAG = re.compile(r"--[a-z-]+(=\S*)?")
_MOST = 50


def bases_of(text: str) -> tuple[str, ...]:
    """The images that its stages begin from, and those that files are copied from, as they are called there.

    What cannot be read is left out: who follows it says what is wrong.
    """
    defaults: dict[str, str] = {}
    stages: set[str] = {"scratch"}
    found: dict[str, None] = {}
    count = 0
    for word, rest in _instructions(text):
        if word == "ARG" and not count:
            name, equals, value = rest.partition("=")
            defaults[name.strip()] = _filled(value.strip().strip("\"'"), defaults) if equals else ""
        elif word == "FROM":
            names = [_filled(one, defaults) for one in rest.split() if not _FLAG.fullmatch(one)]
            if names and names[0].lower() not in stages:
                found[names[0]] = None
            if len(names) == 3 and names[1].lower() == "as":
                stages.add(names[2].lower())
            stages.add(str(count))
            count += 1
        elif word == "COPY" and (flag := re.search(r"--from=(\S+)", rest)) and flag[1].lower() not in stages:
            found[flag[1]] = None
    return tuple(one for one in found if one and "$" not in one)[:_MOST]


def _filled(text: str, known: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda at: known.get(at[1] or at[2]) or at[3] or "", text)


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each with its argument; lines that go on are one."""
    whole = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        whole += line
        if whole.rstrip().endswith("\\"):
            whole = whole.rstrip()[:-1] + " "
            continue
        word, _, rest = whole.strip().partition(" ")
        whole = ""
        if word:
            yield word.upper(), rest.strip()
