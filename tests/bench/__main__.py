"""The benchmark: `scripts/bench`. It makes servers and machines of its own, on loopback, and takes them away again."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import (
    beside,
    clones,
    crowd,
    forks,
    guesses,
    lifetimes,
    machines,
    sandboxes,
    standby,
    templates,
    traffic,
    upstream,
    verge,
    virsh,
    wake,
)
from bench.naive import Naive
from bench.raw import Twin
from bench.table import Row, record, render
from polyvisor.client import Client
from polyvisor.wire.native import CreateInstance
from serving import Server, await_gone, machines_of

GROUPS = {
    "lifecycle": (
        "create → ready", "create → QEMU's process exists", "raw boot → agent's first answer",
        "create → first exec answered", "graceful stop", "delete",
    ),
    "round-trips": ("QMP round trip", "agent ping", "exec of true"),
    "throughput": ("exec: stdin → cat → stdout, 64 MiB", "file written, 32 MiB", "file read, 32 MiB"),
    "standby": (
        "standby, 128 MiB", "standby, 1 GiB", "standby, 1 GiB to 128 MiB", "standby again, 1 GiB restored from disk",
        "restore at once, 1 GiB → running", "restore at once, beside QEMU's start alone",
        "restore at once, 1 GiB → first exec",
        "restore from disk, 1 GiB → running", "restore from disk, 1 GiB → first exec",
    ),
    **{
        group: tuple(
            f"{mode}{row}"
            for row in ("HTTP to a machine in standby or just leaving it", "HTTP requests to such that were lost")
        )
        for group, mode in (("wake", ""), ("wake on a bridge", "bridge: "))
    },
    "forks": tuple(
        f"fork of {what}: {row}"
        for what in ("a booted machine", "a fork")
        for row in ("the source stands still", "still with no fork", "→ the child runs", "→ its first exec")
    ),
    "hypeman": upstream.ROWS,
    "vergeos": verge.ROWS,
    "instavm": sandboxes.ROWS,
    "instavm lifetimes": lifetimes.ROWS,
    "clones": (
        "clones ready, a second and core", "100 clones at once that answer", "memory of an idle clone, its share",
    ),
    "templates": tuple(
        f"create {how} → {what}" for how in ("of a template", "from the pool") for what in ("ready", "first exec")
    ),
    "libvirt": (
        "libvirt: create → it runs", "libvirt: create → ready",
        *(
            f"libvirt: {row}"
            for size in ("128 MiB", "1 GiB")
            for row in (f"standby, {size}", f"restore, {size} → running", f"restore, {size} → first exec")
        ),
    ),
    "guesses": guesses.ROWS,
    "adopt": ("start with 10 VMs to adopt", "kill -9 and start → 10 VMs have answered an exec"),
    "crowd": (
        "creates, 200 at once", "GET one of 1,000", "list of 1,000", "vergeos: list of 1,000 VMs",
        "vergeos: the first list of 1,000 that it did not make",
        "memory with 1,000 instances", "start with 1,000 fake instances", "a page of 1,000 of 10,000",
        "list of 10,000, in pages",
    ),
}  # fmt: skip
_ALONE = ("crowd", "guesses", "instavm", "instavm lifetimes")  # with servers of their own
_ADOPTED = 10
_LIMIT = 3600.0


def main() -> int:
    """Run what is asked; 1 when a bound is exceeded or a group fails."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    names = "; ".join(f"{group}: {', '.join(rows)}" for group, rows in GROUPS.items())
    parser.epilog = f"Groups and rows. {names}."
    parser.add_argument(
        "--only", action="append", default=[], help="rows, or groups, whose name holds this; may be repeated"
    )
    parser.add_argument("--runs", type=int, default=10, help="pairs of each figure (default 10)")
    parser.add_argument("--json", type=Path, help="write every single figure to this file")
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="polyvisor-bench-"))
    try:
        facts, rows = asyncio.run(_all(_chosen(asked.only), work, asked.runs))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows = [row for row in rows if _asked_for(row, asked.only)]
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), end="\n\n")
    print(render(rows))
    if asked.json:
        asked.json.write_text(json.dumps({"facts": facts, "rows": [record(row) for row in rows]}, indent=1))
    return 1 if any(row.missed for row in rows) or any(fact.endswith(" failed") for fact in facts) else 0


def _chosen(wanted: Sequence[str]) -> list[str]:
    """The groups that are called so, or have a row that is."""
    return [group for group, rows in GROUPS.items() if not wanted or any(_matches(w, (group, *rows)) for w in wanted)]


def _matches(word: str, names: Sequence[str]) -> bool:
    return any(word.lower() in name.lower() for name in names)


def _asked_for(row: Row, wanted: Sequence[str]) -> bool:
    group = next(group for group, rows in GROUPS.items() if row.name in rows)
    return not wanted or any(_matches(word, (group, row.name)) for word in wanted)


async def _all(groups: Sequence[str], work: Path, runs: int) -> tuple[dict[str, str], list[Row]]:
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "host": f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start",
    }
    rows: list[Row] = []
    async with asyncio.timeout(_LIMIT):
        if any(group not in _ALONE for group in groups):
            rows += await _with_machines(groups, work, runs, facts)
        if "instavm" in groups:
            rows += await _measured("instavm", lambda: sandboxes.sandboxes(work / "sandboxes", runs), facts)
        if "instavm lifetimes" in groups:
            made = work / "lifetimes"
            rows += await _measured("instavm lifetimes", lambda: lifetimes.lifetimes(made, runs), facts)
        if "crowd" in groups:
            rows += await _measured("crowd", lambda: crowd.crowd(work, runs), facts)
        if "guesses" in groups:
            rows += await _measured("guesses", lambda: guesses.guesses(work / "guesses", runs), facts)
    return facts, rows


async def _with_machines(groups: Sequence[str], work: Path, runs: int, facts: dict[str, str]) -> list[Row]:
    server = Server(work / "real").start()
    rows: list[Row] = []
    try:
        async with server.client() as client:
            twin, naive = await _models(server, client, work, facts)
            groups_of: tuple[tuple[str, Callable[[], Awaitable[list[Row]]]], ...] = (
                ("lifecycle", lambda: machines.lifecycle(client, twin, naive, runs)),
                ("round-trips", lambda: machines.round_trips(client, twin, runs)),
                ("standby", lambda: standby.standby(client, server.data, work, runs)),
                ("wake", lambda: wake.wake(client, runs)),
                ("wake on a bridge", lambda: wake.bridged(server.data, work / "bridge", runs)),
                ("forks", lambda: forks.forks(client, server.data, work, runs)),
                ("hypeman", lambda: upstream.upstream(server, client, runs)),
                ("vergeos", lambda: verge.verge(server, runs)),
                ("clones", lambda: clones.clones(client, server.data, work)),
                ("templates", lambda: templates.templates(client, server.data, work, runs)),
                ("libvirt", lambda: beside.beside(client, twin, naive.accelerator, runs)),
                ("throughput", lambda: traffic.throughput(client, twin, runs)),
            )
            for group, measured in groups_of:
                if group == "libvirt" and not virsh.is_installed():
                    facts["libvirt"] = "not installed, or not run by root: its rows are left out"
                elif group == "wake on a bridge" and os.geteuid() != 0:
                    facts[group] = "not run by root: its rows are left out"
                elif group in groups:
                    rows += await _measured(group, measured, facts)
        if "adopt" in groups:
            rows += await _measured("adopt", lambda: machines.adopt(server, _ADOPTED, max(3, runs // 3)), facts)
        return rows
    finally:
        server.cli("rm", "--all", "--force")
        server.stop()
        await_gone(machines_of(server.data))


async def _measured(group: str, rows: Callable[[], Awaitable[list[Row]]], facts: dict[str, str]) -> list[Row]:
    """Its rows. One group that fails does not lose what the others have measured."""
    _say(group)
    try:
        return await rows()
    except Exception as error:
        facts[f"{group} failed"] = "".join(traceback.format_exception(error))
        return []


async def _models(server: Server, client: Client, work: Path, facts: dict[str, str]) -> tuple[Twin, Naive]:
    """What is run by hand: like a machine that the server has launched, and a plain one."""
    _say("the first machine")
    made = await client.instances.create(CreateInstance(image="busybox"), wait="ready", timeout=600)
    assert made.pid
    twin = Twin.of(made.pid, server.data, made.id, work)
    await client.instances.delete(made.id, force=True)
    host: Any = (await client.hosts.list())[0]
    facts["hypervisor"] = f"{host.hypervisor} {host.version}, accelerator {host.accelerator}"
    return twin, Naive.make(server.data / "boot", host.accelerator, work)


def _say(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
