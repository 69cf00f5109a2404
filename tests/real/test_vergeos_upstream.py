"""Upstream's own integration tests for what a single host can mean, run against a server of ours.

They come with the source distribution of its client, which is fetched here and is no part of this repository. What does
not pass is listed with the reason in the dialect's NOTES.md; a test that is listed and passes is a failure as well.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import polyvisor
from real.verges import Verge
from serving import Server

PINNED = "pyvergeos==1.7.1 --hash=sha256:03b716890c41142d83fd6efa37788ddbb5966bfcf75f88fa27c8a0973e268a2d\n"
WORDS = """
connection machine_stats vms cloudinit_files filter_quoting groups users api_keys permissions tags files clusters nodes
system logs tasks task_scheduling snapshot_profiles vm_imports volume_vm_exports resource_groups
"""
NOTES = Path(polyvisor.__file__).parent / "dialects/vergeos/NOTES.md"
LISTED = re.compile(r"^\| `(test_\w+)\.py` \| `([\w:, ]+)` \|", re.MULTILINE)


def listed() -> set[str]:
    """The tests that NOTES.md says do not pass, as `file::test`."""
    rows = LISTED.findall(NOTES.read_text())
    return {f"{file}::{name.strip()}" for file, names in rows for name in names.split(",")}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("upstream")
    (folder / "pinned.txt").write_text(PINNED)
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "pyvergeos", "--require-hashes"]
    subprocess.run([*argv, "-r", "pinned.txt", "-d", "."], cwd=folder, check=True, timeout=300, capture_output=True)
    (packed,) = folder.glob("pyvergeos-*.tar.gz")
    subprocess.run(["tar", "xzf", packed.name], cwd=folder, check=True, timeout=60)
    return folder / packed.name.removesuffix(".tar.gz")


@pytest.fixture
def furnished(base: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Verge]:
    """A server with what upstream's tests look for: a VM called `test` with parts, another one, tags, a disk image."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    verge = Verge(base)
    made: list[tuple[str, Any]] = []

    def row(table: str, **body: Any) -> int:
        answer = verge.sdk._request("POST", table, json_data=body)
        assert isinstance(answer, dict)
        made.append((table, answer["$key"]))
        return int(answer["$key"])

    vm = verge.vm(name="test", ram=512)
    vm.drives.create(size_gb=1, name="disk")
    vm.nics.create(network="Internal", name="cable")
    vm.snapshots.create(name="first", retention=0)
    other = verge.vm(name="pv-other")
    row("tags", name="pv-tag", category=row("tag_categories", name="pv-category", taggable_vms=True))
    image = tmp_path / "debian-12-generic-amd64-0.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M"], check=True, timeout=60)
    file = verge.sdk.files.upload(str(image))
    yield verge
    for one in verge.sdk.vms.list():
        if one.key in (vm.key, other.key) or one.name.startswith("pstest"):
            if one.is_running:
                one.power_off(force=True)
                verge.until(one, "stopped")
            verge.sdk.vms.delete(one.key)
    for table, key in reversed(made):
        verge.sdk._request("DELETE", f"{table}/{key}")
    verge.sdk.files.delete(file.key)
    verge.sdk.disconnect()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_upstreams_own_tests_pass_but_for_those_that_are_listed(
    furnished: Verge, upstream: Path, tmp_path: Path
) -> None:
    told = {
        "VERGE_HOST": furnished.url.removeprefix("https://"), "VERGE_USERNAME": "root",
        "VERGE_PASSWORD": furnished.password,
    }  # fmt: skip
    report = tmp_path / "report.xml"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}"]
    files = [f"tests/integration/test_{name}.py" for name in WORDS.split()]
    done = subprocess.run(
        [*argv, *files], cwd=upstream, env={**os.environ, **told}, capture_output=True, text=True, timeout=1500,
        check=False,
    )  # fmt: skip
    assert report.exists(), done.stdout[-3000:] + done.stderr[-1000:]
    counted: Counter[str] = Counter()
    failed = set()
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        word = min(kinds) if kinds else "passed"
        counted[word] += 1
        if word in ("failure", "error"):
            file = case.attrib["classname"].split(".")[2]
            failed.add(f"{file}::{case.attrib['name'].partition('[')[0]}")
    print(f"upstream's integration tests: {dict(counted)}")
    assert failed - listed() == set(), done.stdout[-6000:]
    assert listed() - failed == set()
    assert counted["passed"] > 0
