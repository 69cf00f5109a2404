"""`scripts/fuzz`: Schemathesis against a server of its own, on the documents that the server publishes, or on others.

The hypervisor is the fake one, so a case costs milliseconds. A keeper has things of every kind there, by names that
`hooks` puts into paths, and takes away what the run has made too many of. Pushes have no published document: theirs is
in `registry`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from fuzz import registry
from fuzz.stock import Stock
from serving import Server

HERE = Path(__file__).parent
SEED = 20261126
_SETTINGS = '[images]\nregistries = "127.0.0.1:9"\n'  # nothing is fetched from anywhere: nobody listens there
_CHECKS = (
    "not_a_server_error,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "unsupported_method,ignored_auth,told_properly"
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=400, help="cases made for each operation, beside the edges")
    parser.add_argument("--least", type=int, default=20_000, help="fewer cases than that are a failure")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--time", type=float, default=1800, help="seconds for each document, after which it fails")
    parser.add_argument("--slow", type=float, default=10.0, help="seconds that an answer may take")
    parser.add_argument("--phases", default="examples,coverage,fuzzing")
    parser.add_argument("--document", action="append", help="an OpenAPI document; without one, the server's own")
    parser.add_argument("--only", help="a regular expression of paths")
    parser.add_argument("--checks", default=_CHECKS)
    return parser.parse_args()


def main() -> int:
    """Run it; 0 where every answer was as the document says."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        settings = Path(folder) / "settings.toml"
        settings.write_text(_SETTINGS)
        server = Server(Path(folder) / "data", "--hypervisor", "fake", "--config", str(settings)).start()
        try:
            code = _with(asked, server, Path(folder))
        finally:
            server.stop()
        return max(code, _judge_log(server.log))


def _with(asked: argparse.Namespace, server: Server, folder: Path) -> int:
    url, key = server.facts["url"], server.facts["api_key"]
    over = threading.Event()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60) as http:
        stock = Stock(http, folder / "stock.json")
        stock.fill()
        keeper = threading.Thread(target=stock.keep, args=(over,))
        keeper.start()
        try:
            results = [_Result.of(asked, url, key, one, folder) for one in _documents(asked, http, folder)]
        finally:
            over.set()
            keeper.join()
    for result in results:
        result.tell()
    total = sum(result.cases for result in results)
    print(f"\n{total} cases, seed {asked.seed}")
    return max([result.code for result in results] + [int(total < asked.least)])


def _documents(asked: argparse.Namespace, http: httpx.Client, folder: Path) -> list[Path]:
    if asked.document:
        return [Path(name).absolute() for name in asked.document]
    found = {"published": http.get("/spec.json").text, "pushes": json.dumps(registry.document())}
    for name, text in found.items():
        (folder / f"{name}.json").write_text(text)
    return [folder / f"{name}.json" for name in found]


@dataclass
class _Result:
    """What came of one document."""

    name: str
    code: int
    statuses: Counter[str] = field(default_factory=Counter)
    slowest: list[Any] = field(default_factory=list)
    undocumented: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, asked: argparse.Namespace, url: str, key: str, document: Path, folder: Path) -> _Result:
        """Run it."""
        told = folder / f"told-{document.stem}.json"
        command, env = _command(asked, url, key, document), _environment(folder, told)
        try:
            code = subprocess.run(command, env=env, check=False, timeout=asked.time, cwd=folder).returncode
        except subprocess.TimeoutExpired:
            print(f"{document.stem}: not done within {asked.time:g} s")
            code = 1
        seen = json.loads(told.read_text()) if told.exists() else {}
        return cls(
            document.stem,
            code,
            Counter(seen.get("statuses", {})),
            seen.get("slowest", []),
            seen.get("undocumented", []),
        )

    @property
    def cases(self) -> int:
        """How many were answered."""
        return sum(self.statuses.values())

    def tell(self) -> None:
        """For people."""
        print(f"\n{self.name}: {self.cases} cases: " + ", ".join(f"{k}: {n}" for k, n in sorted(self.statuses.items())))
        print(f"  slowest: {self.slowest}")
        if self.undocumented:
            print("  statuses that the document does not have, as errors: " + ", ".join(sorted(self.undocumented)))


# One worker: with more, Python 3.11's parser, which hypothesis uses, stumbles over its recursion depth now and then.
def _command(asked: argparse.Namespace, url: str, key: str, document: Path) -> list[str]:
    only = ["--include-path-regex", asked.only] if asked.only else []
    return [
        str(Path(sys.executable).with_name("st")), "--config-file", str(HERE / "schemathesis.toml"), "run",
        str(document), "--url", url, "--header", f"Authorization: Bearer {key}", "--seed", str(asked.seed),
        "--max-examples", str(asked.examples), "--phases", asked.phases, "--checks", asked.checks,
        "--max-response-time", str(asked.slow), "--workers", "1", "--suppress-health-check", "all", "--no-shrink",
        "--warnings", "off", *only,
    ]  # fmt: skip


def _environment(folder: Path, told: Path) -> dict[str, str]:
    path = os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", "")))
    own = {"SCHEMATHESIS_HOOKS": "fuzz.hooks", "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    return os.environ | own | {"FUZZ_STOCK": str(folder / "stock.json"), "FUZZ_TOLD": str(told)}


def _judge_log(log: Path) -> int:
    """Whether the server logged an error of its own."""
    text = log.read_text()
    at = text.find("Traceback")
    if at >= 0:
        print(f"\nthe server's log has {text.count('Traceback')} tracebacks; the first:")
        print(text[max(0, at - 500) : at + 4000])
    return int(at >= 0)


if __name__ == "__main__":
    sys.exit(main())
