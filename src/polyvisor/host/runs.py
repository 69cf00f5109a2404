"""What is kept beside a machine about its present run, so that a later manager can take it over.

Written once before the process exists (facts only we know: forwards, where the journal stood) and once after it
(its proof). The same record is in the store; this copy survives a crash between the launch and that commit.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from polyvisor.host.guest.journal import last_exit
from polyvisor.model.instance import HOST_RESTART, Ended, RunRecord
from polyvisor.ports.hypervisor import Machine, UserNic

_FILE = "run.json"


def pending(machine: Machine, journal: Path) -> RunRecord:
    """The record of a run whose process does not exist yet."""
    forwards = machine.nic.forwards if isinstance(machine.nic, UserNic) else ()
    size = journal.stat().st_size if journal.exists() else 0
    return RunRecord(1, "", 0, 0, "", "", "", "", 0.0, forwards, size)


def with_process(record: RunRecord, proof: RunRecord) -> RunRecord:
    """`record` with the process of `proof`."""
    return dataclasses.replace(proof, forwards=record.forwards, journal=record.journal)


def save(directory: Path, record: RunRecord) -> None:
    """Write, durable against a crash of ours: under another name, then renamed."""
    part = directory / (_FILE + ".part")
    part.write_text(json.dumps(dataclasses.asdict(record)))
    part.replace(directory / _FILE)


def load(directory: Path) -> RunRecord | None:
    """The record, when there is one that can be read. Its pid is 0 while no process was proven."""
    try:
        data = json.loads((directory / _FILE).read_text())
        data["forwards"] = tuple(tuple(row) for row in data["forwards"])
        return RunRecord(**data)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def forget(directory: Path) -> None:
    """No record of a run is left."""
    (directory / _FILE).unlink(missing_ok=True)


def boot_id() -> str:
    """The kernel's id of this boot of the host: a process of another one is gone with it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def how_it_ended(journal: Path, record: RunRecord, boot: str, *, shut_down: bool) -> Ended:
    """The workload's exit if the guest wrote one in this run, else what the process or its absence tells."""
    exit = last_exit(journal, record.journal)
    if exit is not None:
        return Ended(exit.code, exit.signal, "exited")
    if record.boot_id != boot:
        return Ended(reason=HOST_RESTART)
    return Ended(reason="shutdown" if shut_down else "crashed")
