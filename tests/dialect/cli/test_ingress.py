"""ingress create, ls, show, rm."""

from __future__ import annotations

import json
from pathlib import Path

from dialect.cli.conftest import Shell


def test_an_ingress(shell: Shell, tmp_path: Path) -> None:
    vm, name = shell.vm(), shell.name("in")
    secret = tmp_path / "secret"
    secret.write_text("s" * 32 + "\n")
    rules = ["-r", f"{name}.example.com={vm}:8000", "-r", "{vm}." + name + ".example:8443={vm}:80"]
    assert shell.ok("ingress", "create", name, *rules, "--guard", f"X-Door={secret}", "-l", "a=b") == f"{name}\n"
    made = json.loads(shell.ok("ingress", "show", name, "--json"))
    assert (made["labels"], [rule["guard"] for rule in made["rules"]]) == ({"a": "b"}, ["X-Door", "X-Door"])
    told = shell.ok("ingress", "show", name).splitlines()
    assert told[0] == f"{name} {made['id']}"
    assert told[1] == f"  http://{name}.example.com -> {vm}:8000 (guarded by X-Door)"
    table = [row.split() for row in shell.ok("ingress", "ls").splitlines()]
    assert table[0] == ["NAME", "ASKED", "FOR", "VM", "PORT", "GUARD", "AGE"]
    assert [row[:4] for row in table if row[0] == name][1] == [name, f"http://{{vm}}.{name}.example:8443", "{vm}", "80"]
    assert name in [one["name"] for one in json.loads(shell.ok("ingress", "ls", "--json"))]
    refused = shell("ingress", "create", shell.name("in"), "-r", f"a.example.com={vm}:80", "--redirect")
    assert (refused.returncode, b"rules[0].redirect: needs tls" in refused.stderr) == (1, True)
    assert shell.ok("ingress", "rm", name) == f"{name}\n"
    assert shell("ingress", "rm", name).returncode == 1
