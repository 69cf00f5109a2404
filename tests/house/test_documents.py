"""Documents keep their rules, and each rule bites when it is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from house import documents

ROOT = Path(__file__).parents[2]
Rule = Callable[[Path], list[str]]

PLANTED: dict[Rule, dict[str, str]] = {
    documents.silent_packages: {"pkg/__init__.py": ""},
    documents.unfinished_records: {"docs/adr/0001-a.md": "# 0001 A\n\nStatus: accepted\n\n## Context\n"},
    documents.dead_links: {"README.md": "[more](docs/more.md#part)"},
    documents.missing_modules: {"README.md": "see `engine/gone.py:create`"},
    documents.deadly_unit: {"packaging/polyvisor.service": "[Service]\nKillMode=mixed\n"},
    documents.unexplained_packages: {
        "scripts/setup": "packages=(\n  python3 left-pad\n)\n",
        "docs/dependencies.md": "`python3`",
    },
}


@pytest.mark.parametrize("rule", PLANTED, ids=lambda rule: rule.__name__)
def test_the_documents_keep(rule: Rule) -> None:
    assert rule(ROOT / "src" / "polyvisor" if rule is documents.silent_packages else ROOT) == []


@pytest.mark.parametrize("rule", PLANTED, ids=lambda rule: rule.__name__)
def test_the_document_rule_bites(rule: Rule, tmp_path: Path) -> None:
    for name, text in PLANTED[rule].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert rule(tmp_path), f"{rule.__name__} let a violation through"
