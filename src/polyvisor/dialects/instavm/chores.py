"""What time does here: shares of VMs that are gone are taken away, and records that nobody will ask for are
forgotten."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from datetime import datetime, timedelta

from polyvisor.dialects.instavm import domains, records, shares, vms
from polyvisor.dialects.instavm.builds import FAILED, Builds, everything
from polyvisor.dialects.instavm.door import Call
from polyvisor.model.faults import Fault
from polyvisor.model.principal import Action

log = logging.getLogger("polyvisor.instavm")
_EVERY = timedelta(seconds=5)
_FORGET_EVERY = timedelta(minutes=10)
KEPT = timedelta(days=30)
"""For how long it is known of a VM that it was, and of a session that it is."""


class Chores:
    """Those of one application, in the operator's name; each is safe to repeat."""

    def __init__(self, call: Call, builds: Builds) -> None:
        self._call = call
        self._builds = builds
        self._swept = self._forgot = vms.now() - _FORGET_EVERY

    async def tick(self) -> None:
        """What is due."""
        now = vms.now()
        if now - self._swept >= _EVERY:
            self._swept = now
            await self._try(shares.sweep(self._call), "shares")
            await self._try(domains.sweep(self._call), "custom domains")
        if now - self._forgot >= _FORGET_EVERY:
            self._forgot = now
            await self._try(self.forget(now - KEPT), "old records")
            await self._try(self._builds.recover(self._call), "unfinished builds")

    async def _try(self, work: Awaitable[object], what: str) -> None:
        try:
            await work
        except Fault as fault:
            log.warning("%s: %s %s", what, fault.public, fault.private)
        except Exception:
            log.exception("%s stumbled; the others go on", what)

    async def forget(self, before: datetime) -> None:
        """Records of VMs and sessions that are older than that, and whose VM is no more; and of builds that failed."""
        call = self._call
        here = {one.instance.id for one in await vms.everything(call)}
        old = [one.row() for one in await records.former(call, here) if one.created < before]
        old += [one.row() for one in await records.sessions(call) if one.created < before and one.instance not in here]
        failed = [
            one for one in await everything(call) if one.status == FAILED and not one.snapshot and one.created < before
        ]
        old += [one.row() for one in failed]
        if old:
            await call.core.rows.remove(call.principal, old, Action.INSTANCE_DELETE)
