"""The audit log: who did what, to what, from where, and what came of it.

Which verbs are written down is one table, and the rest of the engine does not know of it: `watch` stands before the
verbs of a noun. An entry is written a moment after its verb has answered, so that nobody waits for it; who reads the
log waits until all that was answered before is in it. Only a server that is killed in that moment loses an entry, and
the record of the operation, which is part of the change, is there. Logins that are not even looked at any more are told
with their number.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from polyvisor.access.grants import require_somewhere, scope, touched
from polyvisor.engine.repeats import Repeats
from polyvisor.engine.users import Membership
from polyvisor.model.faults import Fault, Throttled, Unauthenticated
from polyvisor.model.identity import ApiKey, AuditEntry, AuditFilter, Project
from polyvisor.model.principal import Action, Credential, Principal
from polyvisor.model.task import Task
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
_LONGEST = 500
_MOST_WAITING = 10_000
_LOGIN = "session.login"

RECORDED: Mapping[str, Mapping[str, str]] = {
    "instances": {"create": "instance.create", "update": "instance.update"},
    "power": {
        "start": "instance.start", "stop": "instance.stop", "restart": "instance.restart", "reset": "instance.reset",
        "press": "instance.press",
        "pause": "instance.pause", "resume": "instance.resume", "suspend": "instance.suspend",
        "delete": "instance.delete",
    },
    "nics": {"plug": "nic.plug", "unplug": "nic.unplug"},
    "egress": {"set": "instance.egress"},
    "shapes": {"reshape": "instance.reshape"},
    "allowances": {"allow": "instance.allow"},
    "standby": {"hold": "instance.hold"},
    "streams": {
        "guest": "instance.interact", "execute": "instance.execute", "type": "instance.type",
    },
    "code": {"run": "instance.run"},
    "volumes": {
        "create": "volume.create", "create_from": "volume.create", "resize": "volume.resize", "delete": "volume.delete",
        "attach": "volume.attach", "detach": "volume.detach",
    },
    "files": {"read": "volume.read", "write": "volume.write", "remove": "volume.write"},
    "terminals": {"ticket": "instance.terminal", "open": "instance.terminal"},
    "screens": {"shot": "instance.screenshot", "ticket": "instance.screen"},
    "media": {
        "create_blank": "volume.create", "upload": "volume.create", "copy": "volume.copy", "write": "volume.write",
        "unpack": "volume.unpack",
    },
    "appliances": {"look": "volume.look", "pack": "volume.pack"},
    "snapshots": {"create": "snapshot.create", "revert": "snapshot.revert", "delete": "snapshot.delete"},
    "schedules": {"set": "schedule.set", "remove": "schedule.remove"},
    "tasks": {"create": "task.create", "update": "task.update", "remove": "task.remove", "run": "task.run"},
    "ingresses": {"create": "ingress.create", "replace": "ingress.update", "delete": "ingress.delete"},
    "forks": {"fork": "instance.fork"},
    "templates": {"create": "template.create", "delete": "template.delete"},
    "images": {
        "pull": "image.pull", "provide": "image.provide", "take": "image.import", "name": "image.name",
        "unname": "image.unname", "delete": "image.delete",
    },
    "registry": {"put": "image.receive"},
    "pushes": {"create": "image.push"},
    "builds": {"create": "image.build", "cancel": "build.cancel"},
    "builders": {"create": "builder.create", "prune": "builder.prune", "delete": "builder.delete"},
    "reclaim": {"reclaim": "host.reclaim"},
    "projects": {"create": "project.create", "update": "project.update", "delete": "project.delete"},
    "users": {"create": "user.create", "update": "user.update", "delete": "user.delete"},
    "rows": {"add": "row.add", "save": "row.save", "swap": "row.swap", "remove": "row.remove"},
    "vaults": {
        "create": "vault.create", "update": "vault.update", "delete": "vault.delete",
        "add_credential": "credential.create", "rotate": "credential.rotate", "remove_credential": "credential.delete",
        "add_services": "vault.serve", "remove_service": "vault.unserve",
    },
    "bindings": {"bind": "instance.bind"},
    "rights": {"assign": "pool.assign", "revoke": "pool.revoke"},
    "grants": {"assign": "grant.assign", "revoke": "grant.revoke", "put": "grant.put"},
    "derived": {"change": "grant.derive"},
    "ssh_keys": {"add": "ssh_key.add", "remove": "ssh_key.remove"},
    "keys": {"create": "key.create", "update": "key.update", "delete": "key.delete"},
}  # fmt: skip
"""Noun of the engine, its verb, and what the log calls that."""


class AuditEngine:
    """Writing and reading the log."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._waiting: list[AuditEntry] = []
        self._turn = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None
        self._throttled = Repeats[tuple[str, str]](self._note_throttled)
        self._strangers = Repeats[str](self._note_strangers)

    def note_refused(self, credential: Credential, fault: Fault) -> None:
        """Somebody could not log in."""
        if isinstance(fault, Throttled):
            self._throttled.one((_sane(credential.name), credential.source))
        else:
            self.note(credential.name, credential.source, _LOGIN, outcome=fault.kind)

    def _note_throttled(self, who: tuple[str, str], count: int) -> None:
        detail = "" if count == 1 else f"{count} times"
        self.note(*who, _LOGIN, outcome=Throttled().kind, detail=detail)

    def note_stranger(self, source: str) -> None:
        """Somebody came by SSH, and had no key for what he asked for."""
        self._strangers.one(source)

    def _note_strangers(self, source: str, count: int) -> None:
        detail = "" if count == 1 else f"{count} times"
        self.note("", source, "ssh.login", outcome=Unauthenticated().kind, detail=detail)

    def note(  # noqa: PLR0913 - what an entry says
        self, who: str, source: str, action: str, *, project: str = "", subject: str = "", outcome: str = "ok",
        detail: str = "",
    ) -> None:  # fmt: skip
        """Write it down a moment later."""
        told = {"who": who, "source": source, "action": action, "project": project, "subject": subject}
        told |= {"outcome": outcome, "detail": detail}
        entry: dict[str, Any] = {name: _sane(text) for name, text in told.items()}
        self._waiting.append(AuditEntry(at=self._clock(), **entry))
        if len(self._waiting) > _MOST_WAITING:  # the records cannot be written; what is newest says most
            log.error("the audit log cannot be written; an entry is lost: %s", self._waiting.pop(0))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="audit")

    def note_task(self, task: Task) -> None:
        """That a task's last run came to nothing, where it was to happen by the clock and nobody was told."""
        if task.last is not None and not task.last.by_hand:
            self.note(
                task.owner.name, "", "task.run", project=task.project, subject=task.instance,
                outcome=task.last.outcome, detail=f"{task.name}: {task.last.detail}",
            )  # fmt: skip

    async def flush(self) -> None:
        """Once all that was noted is written."""
        async with self._turn:
            entries, self._waiting = self._waiting, []
            if not entries:
                return
            try:
                async with self._store.write() as unit:
                    await unit.audit.append(entries)
            except BaseException:
                self._waiting = entries + self._waiting
                raise

    async def close(self) -> None:
        """The server goes: what was noted is written."""
        self._throttled.settle()
        self._strangers.settle()
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._write()

    async def _write(self) -> None:
        try:
            await self.flush()
        except Fault as fault:
            log.error("the audit log cannot be written now: %s %s", fault.public, fault.private)

    async def list(
        self, principal: Principal, wanted: AuditFilter, before: int | None = None, limit: int = 100
    ) -> Sequence[AuditEntry]:
        """The latest entries about projects whose log the caller may see, newest first; below number `before`.

        What is about no project, such as a failed login, is for operators. :raise Forbidden:
        """
        require_somewhere(principal, Action.AUDIT_VIEW)
        self._throttled.settle()
        self._strangers.settle()
        await self.flush()
        async with self._store.read() as unit:
            return await unit.audit.page(scope(principal, Action.AUDIT_VIEW), wanted, before, limit)


def watch(audit: AuditEngine, noun: object, verbs: Mapping[str, str]) -> None:
    """Write down whoever uses these verbs of a noun, with what came of it."""
    for name, action in verbs.items():
        setattr(noun, name, _recorded(audit, getattr(noun, name), action))


def _recorded(audit: AuditEngine, verb: Callable[..., Any], action: str) -> Callable[..., Any]:
    @functools.wraps(verb)
    async def recorded(principal: Principal, *args: Any, **more: Any) -> Any:
        subject = next((arg for arg in args if isinstance(arg, str)), "")
        outcome, detail, project = "ok", "", ""
        touched.set(None)
        try:
            made = await verb(principal, *args, **more)
            subject, project = _of(made, subject)
            detail = _said(made)
            return made
        except Fault as fault:
            outcome, detail = fault.kind, fault.public
            raise
        except BaseException as error:
            outcome, detail = "Internal", type(error).__name__
            raise
        finally:
            where = project or touched.get() or principal.project
            audit.note(
                principal.name, principal.source, action, project=where, subject=subject, outcome=outcome, detail=detail
            )  # fmt: skip

    return recorded


def _of(made: Any, subject: str) -> tuple[str, str]:
    """The id and project of what a verb answered with, however it is wrapped; "" where it does not say."""
    if isinstance(made, tuple):  # a key and its record
        made = made[-1] if made else None
    for name in ("instance", "snapshot", "project", "user", "key"):
        made = getattr(made, name, made) if not isinstance(getattr(made, name, made), str | None) else made
    if isinstance(made, Project):
        return made.id, made.id
    return str(getattr(made, "id", subject)), str(getattr(made, "project", ""))


def _said(made: Any) -> str:
    """What an id does not tell: to whom what was granted, and what a key lets through."""
    if isinstance(made, Membership):
        return f"{made.user.name}: {', '.join(sorted(made.actions)) or 'nothing'}"
    if isinstance(made, tuple) and made and isinstance(made[-1], ApiKey):
        scopes = made[-1].scopes
        return f"{made[-1].name}: {'everything' if scopes is None else ', '.join(sorted(scopes))}"
    return ""


def _sane(text: str) -> str:
    """What every kind of store can hold: callers' words come in here, too."""
    return text[:_LONGEST].replace("\0", "?").encode(errors="replace").decode()
