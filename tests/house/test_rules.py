"""The house as it stands keeps every rule, and each rule bites when it is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from house import rules

PACKAGE = Path(__file__).parents[2] / "src" / "polyvisor"
Rule = Callable[[Path], list[str]]

PLANTED: dict[Rule, tuple[str, str]] = {
    rules.too_long: ("engine/big.py", '"""Big."""\n\ndef f():\n' + "    x = 1\n" * 70),
    rules.without_docstring: ("model/mute.py", "x = 1\n"),
    rules.starts_processes: ("engine/run.py", '"""R."""\nimport subprocess\nsubprocess.run(["true"])\n'),
    rules.reads_environment: ("host/env.py", '"""E."""\nimport os\nx = os.environ["HOME"]\n'),
    rules.writes_facts: ("engine/facts.py", '"""F."""\nasync def f(unit):\n    await unit.instances.saw("a", None)\n'),
    rules.writes_wishes: ("reconcile/w.py", '"""W."""\nasync def f(unit):\n    await unit.instances.want("a", None)\n'),
    rules.reads_remainders: ("engine/r.py", '"""R."""\ndef f(foreign):\n    return foreign.remainder\n'),
    rules.unexplained_exemptions: ("host/x.py", '"""X."""\nimport os  # noqa\n'),
    rules.empty_names: ("host/m.py", '"""M."""\nclass DiskManager:\n    """D."""\n'),
    rules.probes_formats: ("host/q.py", '"""Q."""\nx = ["qemu-img", "resize", "disk", "1G"]\n'),
    rules.too_many_verbs: (
        "engine/fat.py",
        '"""F."""\nclass Fat:\n' + "".join(f"    async def v{n}(self): ...\n" for n in range(13)),
    ),
}


@pytest.mark.parametrize("rule", PLANTED, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule: Rule) -> None:
    assert rule(PACKAGE) == []


@pytest.mark.parametrize("rule", PLANTED, ids=lambda rule: rule.__name__)
def test_the_rule_bites(rule: Rule, tmp_path: Path) -> None:
    name, text = PLANTED[rule]
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert rule(tmp_path), f"{rule.__name__} let a violation through"
