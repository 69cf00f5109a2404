"""Rules for documents: each takes a tree and says what breaks it. Tests run them and plant violations."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_LONGEST_RECORD = 40
_RECORD = re.compile(r"\d{4}-[a-z0-9]+(-[a-z0-9]+)*\.md")
_STATUS = re.compile(r"^Status: (proposed|accepted|rejected|superseded by \d{4})$", re.MULTILINE)
_DATE = re.compile(r"^Date: \d{4}-\d{2}-\d{2}$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")
_MODULE = re.compile(r"`((?:[a-z_]+/)+[a-z_]+\.py)(?::\w+)?`")


def silent_packages(root: Path) -> list[str]:
    """Packages whose `__init__` does not say purpose and invariants; an empty one says nothing."""
    return [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("__init__.py"))
        if "migrations/versions" not in path.as_posix() and not ast.get_docstring(ast.parse(path.read_text()))
    ]


def unfinished_records(root: Path) -> list[str]:
    """Decision records without a status, a date or one of their parts, or too long to be read."""
    found = []
    for path in sorted((root / "docs" / "adr").iterdir()):
        text = path.read_text()
        whole = _STATUS.search(text) and _DATE.search(text)
        parts = all(f"\n## {part}\n" in text for part in ("Context", "Decision", "Consequences"))
        titled = text.startswith(f"# {path.name[:4]} ")
        if not (_RECORD.fullmatch(path.name) and whole and parts and titled) or text.count("\n") > _LONGEST_RECORD:
            found.append(path.name)
    return found


def documents(root: Path) -> list[Path]:
    """The documents of the repository."""
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def dead_links(root: Path) -> list[str]:
    """Links to files that are not there."""
    return [
        f"{path.relative_to(root)}: {target}"
        for path in documents(root)
        for target in _LINK.findall(path.read_text())
        if not (path.parent / target).exists()
    ]


def missing_modules(root: Path) -> list[str]:
    """Modules that a document names and that have moved or gone."""
    return [
        f"{path.relative_to(root)}: {name}"
        for path in documents(root)
        for name in _MODULE.findall(path.read_text())
        if not any((root / base / name).exists() for base in (".", "src/polyvisor"))
    ]


def deadly_unit(root: Path) -> list[str]:
    """What in the systemd unit would end the VMs with the server, or break them."""
    lines = (root / "packaging" / "polyvisor.service").read_text().splitlines()
    wanted = ("KillMode=process", "OOMPolicy=continue", "TasksMax=infinity", "Restart=on-failure")
    broken = ("PrivateDevices=", "MemoryDenyWriteExecute=", "ProtectKernelTunables=", "PrivateUsers=", "DynamicUser=")
    found = [f"lacks {line}" for line in wanted if line not in lines]
    return found + [line for line in lines if line.startswith(broken) and not line.endswith("=no")]


def unexplained_packages(root: Path) -> list[str]:
    """Debian packages that `scripts/setup` installs and `docs/dependencies.md` does not name."""
    lists = re.findall(r"packages\+?=\(([^)]*)\)", (root / "scripts" / "setup").read_text())
    text = (root / "docs" / "dependencies.md").read_text()
    return [name for words in lists for name in words.split() if f"`{name}`" not in text]
