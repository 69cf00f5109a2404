"""What happened, as webhooks tell it: our events, this dialect's words (instavm.md §1.15)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from polyvisor.dialects.instavm import names
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.names import DIALECT, VM
from polyvisor.dialects.instavm.vms import stamp
from polyvisor.model.event import Event
from polyvisor.model.faults import Invalid

_VERBS = {"create": "vm.created", "start": "vm.started", "resume": "vm.resumed", "restart": "vm.restarted"}
"""What is told once an operation is done."""
_KINDS = {
    "instance.ready": "vm.ready", "instance.suspended": "vm.suspended", "instance.stopped": "vm.stopped",
    "instance.failed": "vm.failed", "instance.lost": "vm.error", "instance.deleted": "vm.terminated",
    "snapshot.created": "snapshot.created", "snapshot.deleted": "snapshot.deleted",
}  # fmt: skip
TEST, CHALLENGE = "webhook.test", "webhook.verification"
TYPES = frozenset({*_VERBS.values(), *_KINDS.values()})
"""All that an endpoint may subscribe to."""
_PATTERN = re.compile(r"\*|[a-z_]+(\.[a-z_]+)*(\.\*)?")
_PASSED_ON = ("name", "reason", "exit_code", "fault")


def kind_of(event: Event) -> str | None:
    """Our word for it; None: nobody is told."""
    if event.kind == "operation.finished":
        return _VERBS.get(event.data.get("verb", "")) if event.data.get("outcome") == "done" else None
    return _KINDS.get(event.kind)


def matches(patterns: Sequence[str], kind: str) -> bool:
    """Whether one of them is `*`, the word itself, or `vm.*` of a `vm.` word."""
    return any(one in ("*", kind) or (one.endswith(".*") and kind.startswith(one[:-1])) for one in patterns)


def check_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """:raise Invalid: naming one that nothing here will ever match."""
    for number, one in enumerate(patterns):
        if not _PATTERN.fullmatch(one) or not any(matches([one], kind) for kind in TYPES):
            known = ", ".join(sorted(TYPES))
            where = f"event_patterns.{number}"
            raise Invalid(f"{where}: matches no event of this server ({known})", field=where)
    return tuple(dict.fromkeys(patterns))


async def sessions_of(call: Call, events: Sequence[Event]) -> Mapping[str, tuple[str, str]]:
    """The VM's name and the session of each instance that they are about, by its id."""
    ids = {_instance(event) for event in events} - {""}
    rows = await call.core.rows.of(DIALECT, [VM], [names.vm_id(id, 1) for id in ids]) if ids else []
    found = {id: (names.vm_id(id, 1), names.session_of(id)) for id in ids}
    for row in rows:
        data = json.loads(row.data)
        found[data["instance"]] = (names.vm_id(data["instance"], data["incarnation"]), data["session"])
    return found


def _instance(event: Event) -> str:
    return event.data.get("instance", "") if event.kind.startswith("snapshot.") else event.subject


def payload(event: Event, kind: str, known: Mapping[str, tuple[str, str]]) -> str:
    """The body that is sent. Its id is the event's: who hears twice of one can tell."""
    data: dict[str, Any] = {name: event.data[name] for name in _PASSED_ON if name in event.data}
    if event.kind.startswith("snapshot."):
        data["snapshot_id"] = f"snap_{event.subject}"
    if (instance := _instance(event)) in known:
        data["vm_id"], data["session_id"] = known[instance]
    return body(event_id(event), kind, stamp(event.at), {**data, "project_id": event.project})


def event_id(event: Event) -> str:
    """What it is called."""
    return f"evt_{event.seq}"


def body(id: str, kind: str, at: str | None, data: Mapping[str, Any]) -> str:
    """As it goes out."""
    return json.dumps({"id": id, "event_type": kind, "created_at": at, "data": data})
