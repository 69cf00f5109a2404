"""The house rules as code: each takes a tree of sources and says what breaks it. Tests run them and break them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LONGEST_FILE = 600
LONGEST_FUNCTION = 60
EXEMPT = re.compile(r"wire/|/wire\.py$|migrations/versions/")
SUBPROCESS_MAY = {"host/run.py", "host/spawn.py", "inguest/runner.py", "inguest/session.py"}  # the latter in guests
ENVIRON_MAY = {
    "server/config.py",
    "cli/settings.py",
    "inguest/session.py",
    "host/hypervisor/fake/tongue.py",
}  # the latter: a guest's
PHASE_MAY = {"model/instance.py", "reconcile/runner.py", "reconcile/plan.py"}
SAW_MAY = {"reconcile/runner.py"}
REMAINDER_MAY = {"store/foreigners.py"}
_UNEXPLAINED = re.compile(r"#\s*noqa(?!: [A-Z0-9, ]+ - .)|#\s*type: ignore(?!\[[a-z-]+\]  # .)")
FORBIDDEN_NAMES = re.compile(r"(Manager|Service|Helper|Util|Utils|Impl)$")


def sources(root: Path) -> Iterator[tuple[str, str, ast.Module]]:
    """(path below the package, text, tree) of every module."""
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        yield path.relative_to(root).as_posix(), text, _parsed(text)


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def too_long(root: Path) -> list[str]:
    """Files and functions that outgrew one idea."""
    found = []
    for name, text, tree in sources(root):
        if EXEMPT.search(name):
            continue
        if text.count("\n") > LONGEST_FILE:
            found.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    found.append(f"{name}:{node.name}: {length} lines")
    return found


def without_docstring(root: Path) -> list[str]:
    """Modules that do not say what they are for."""
    return [name for name, _, tree in sources(root) if tree.body and not ast.get_docstring(tree)]


def calls_outside(root: Path, pattern: str, allowed: set[str]) -> list[str]:
    """Lines that match outside of the files that may."""
    regex = re.compile(pattern)
    return [
        f"{name}:{number}"
        for name, text, _ in sources(root)
        if name not in allowed
        for number, line in enumerate(text.splitlines(), 1)
        if regex.search(line) and not line.lstrip().startswith("#")
    ]


def starts_processes(root: Path) -> list[str]:
    """Subprocesses anywhere but in the two modules that know how."""
    pattern = r"\bsubprocess\.(run|Popen|call|check_)|create_subprocess_|os\.(system|popen|spawn|exec[lv])"
    return calls_outside(root, pattern, SUBPROCESS_MAY)


def reads_environment(root: Path) -> list[str]:
    """The environment read anywhere but where settings are made."""
    return calls_outside(root, r"os\.environ|os\.getenv", ENVIRON_MAY)


def writes_facts(root: Path) -> list[str]:
    """Observations written by anybody but the reconciler's runner."""
    return calls_outside(root, r"instances\.saw\(", SAW_MAY)


def writes_wishes(root: Path) -> list[str]:
    """Intents written from outside the engine."""
    return [row for row in calls_outside(root, r"instances\.want\(", set()) if not row.startswith("engine/")]


def reads_remainders(root: Path) -> list[str]:
    """What a dialect keeps with a thing is read by that dialect: others hand it on."""
    return [
        where for where in calls_outside(root, r"\.remainder\b", REMAINDER_MAY) if not where.startswith("dialects/")
    ]


def unexplained_exemptions(root: Path) -> list[str]:
    """A `noqa` or `type: ignore` without a reason behind it."""
    found = []
    for name, text, _ in sources(root):
        for number, line in enumerate(text.splitlines(), 1):
            if _UNEXPLAINED.search(line):
                found.append(f"{name}:{number}")
    return found


def empty_names(root: Path) -> list[str]:
    """Classes named after nothing."""
    return [
        f"{name}:{node.name}"
        for name, _, tree in sources(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and FORBIDDEN_NAMES.search(node.name)
    ]


def probes_formats(root: Path) -> list[str]:
    """`qemu-img` given a disk without its format: the header is the guest's word, not ours."""
    found = []
    for name, _, tree in sources(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.List) and any(_is(e, "qemu-img") for e in node.elts):
                words = [e.value for e in node.elts if isinstance(e, ast.Constant)]
                starred = any(isinstance(e, ast.Starred) for e in node.elts)
                if not starred and "-f" not in words and "--version" not in words:
                    found.append(f"{name}:{node.lineno}")
    return found


def _is(node: ast.expr, value: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == value


def too_many_verbs(root: Path, most: int = 12) -> list[str]:
    """An engine module that is becoming everybody's."""
    found = []
    for name, _, tree in sources(root):
        if not name.startswith("engine/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                verbs = [f for f in node.body if isinstance(f, ast.AsyncFunctionDef) and not f.name.startswith("_")]
                if len(verbs) > most:
                    found.append(f"{name}:{node.name}: {len(verbs)} verbs")
    return found
