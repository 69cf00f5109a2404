"""The layer contracts hold, and each of them catches the violation it is there for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PLANTED = {
    "Decisions point inward": ("model/planted.py", "from polyvisor.engine import Engine"),
    "Hands know ports and model, and not each other": ("store/planted.py", "from polyvisor.host.paths import Paths"),
    "Hands do not decide": ("host/planted.py", "from polyvisor.engine.core import Engine"),
    "Deciders have no hands": ("engine/planted.py", "import sqlalchemy"),
    "A dialect knows engine and model only": ("dialects/native/planted.py", "from polyvisor.store import open_store"),
    "No hypervisor knows another": (
        "host/hypervisor/qemu/planted.py",
        "from polyvisor.host.hypervisor.fake.knob import Knob",
    ),
    "Clients have no private door": ("cli/planted.py", "from polyvisor.model.ids import mint"),
    "Wire types import nothing of ours": ("wire/planted.py", "from polyvisor.model.ids import mint"),
}


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts over the package in `tree`."""
    linter = Path(sys.executable).with_name("lint-imports")
    command = [str(linter), "--no-cache", "--config", str(ROOT / ".importlinter")]
    env = {"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_all_contracts_are_kept() -> None:
    done = lint(ROOT / "src")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("contract", PLANTED)
def test_a_planted_violation_is_caught_by_its_contract(contract: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "polyvisor", tmp_path / "polyvisor", ignore=shutil.ignore_patterns("__pycache__"))
    name, line = PLANTED[contract]
    (tmp_path / "polyvisor" / name).write_text(f'"""Planted."""\n\n{line}\n')
    done = lint(tmp_path)
    assert done.returncode != 0
    assert f"{contract} BROKEN" in done.stdout, done.stdout + done.stderr
