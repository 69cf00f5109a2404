"""What may never be committed, and documents that must match the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from house.dialects import document

ROOT = Path(__file__).parents[2]
HOSTS = re.compile("|".join(("py" + "pi\\.org", "python" + "hosted", "npm" + "js\\.org", "deb\\.deb" + "ian\\.org")))


def tracked() -> list[Path]:
    """Every file under version control."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    return [ROOT / name for name in listed.stdout.splitlines()]


def texts() -> list[tuple[str, str]]:
    """(name, text) of every tracked text file."""
    found = []
    for path in tracked():
        if path.is_file():
            data = path.read_bytes()
            if b"\0" not in data:
                found.append((path.relative_to(ROOT).as_posix(), data.decode()))
    return found


def test_no_registry_is_named() -> None:
    assert [name for name, text in texts() if HOSTS.search(text)] == []


def test_requirements_are_pinned_with_hashes_and_without_addresses() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        text = file.read_text()
        assert "--index-url" not in text
        assert "://" not in text
        names = [line for line in text.splitlines() if "==" in line]
        assert names
        assert text.count("--hash=sha256:") >= len(names)


def test_every_dependency_is_explained() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    names = [re.split(r"[>=<\[]", requirement)[0] for requirement in wanted]
    assert [name for name in names if f"`{name}`" not in explained] == []


def test_every_setting_is_documented() -> None:
    from dataclasses import fields, is_dataclass

    from polyvisor.server.config import KINDS, Config

    text = (ROOT / "docs" / "settings.md").read_text()
    config = Config()
    for section in fields(config):
        kind = KINDS.get(section.name)
        value = getattr(config, section.name) if kind is None else kind()
        assert is_dataclass(value)
        prefix = section.name if kind is None else f"{section.name}.NAME"
        for setting in fields(value):
            assert f"`{prefix}.{setting.name}`" in text, f"{prefix}.{setting.name}"


def test_scripts_are_bash_and_executable() -> None:
    for path in (*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"):
        if path.is_file() and path.suffix == "":
            assert path.read_text().startswith("#!/usr/bin/env bash\n"), path
            assert path.stat().st_mode & 0o111, path


def test_the_table_of_words_is_the_codes() -> None:
    assert (ROOT / "docs/dialects.md").read_text() == document(), (
        "run: python tests/house/dialects.py > docs/dialects.md"
    )
