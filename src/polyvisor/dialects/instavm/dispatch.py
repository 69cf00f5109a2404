"""Deliveries: made of what happens, sent, tried again, and in the end forgotten.

Each endpoint that something waits for has a task of its own, so one that answers slowly holds up nobody else; a project
has a few places at which its endpoints wait for answers. What becomes of a delivery is written after the answer: a
server that ends in between sends it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from weakref import WeakValueDictionary

from polyvisor.dialects.instavm import happenings, hooks, vms
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.hooks import Delivery, Endpoint, State
from polyvisor.model.event import Event
from polyvisor.model.faults import Fault, NotFound
from polyvisor.model.foreign import Row
from polyvisor.model.letter import Letter, Receipt

log = logging.getLogger("polyvisor.instavm")
HEADER = "InstaVM-Signature"
_PAUSE = 0.5
_BATCH = 20
_SETTLES = timedelta(seconds=1)
"""A VM's session is written down a moment after the VM: what is younger waits."""
_LONGEST_PAUSE = timedelta(hours=1)
_PLACES = 4
_KEPT, _KEPT_FOR = 200, timedelta(days=7)
_PRUNE_EVERY = timedelta(minutes=1)


def signature(secret: str, seconds: int, body: bytes) -> str:
    """What `instavm.webhooks.verify` reads."""
    found = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={found}"


def pause(attempts: int) -> timedelta:
    """How long after that many tries there is another: 1 s, 4 s, 16 s and so on, an hour at most."""
    return min(timedelta(seconds=4 ** min(attempts - 1, 10)), _LONGEST_PAUSE)


def judged(delivery: Delivery, receipt: Receipt, retries: int) -> Delivery:
    """What becomes of it after a try."""
    now, attempts = vms.now(), delivery.attempts + 1
    error = "" if receipt.taken else receipt.error or f"HTTP status {receipt.status}"
    tried = replace(delivery, attempts=attempts, last=now, status=receipt.status, error=error)
    if receipt.taken:
        return replace(tried, state=State.DELIVERED)
    return replace(tried, state=State.FAILED) if attempts > retries else replace(tried, due=now + pause(attempts))


class Dispatcher:
    """Of one application, in the operator's name."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._read: dict[str, int] = {}
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._pruned = vms.now() - _PRUNE_EVERY

    async def run(self) -> None:
        """Until cancelled. What is on its way then is sent again by the next server."""
        try:
            while True:
                await self._try()
                await asyncio.sleep(_PAUSE)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _try(self) -> None:
        try:
            await self._round()
        except Fault as fault:
            log.warning("webhooks: %s %s", fault.public, fault.private)
        except Exception:
            log.exception("webhooks stumbled; they go on")

    async def _round(self) -> None:
        """Make deliveries of what has happened, send what is due, forget what is old."""
        now = vms.now()
        if now - self._pruned >= _PRUNE_EVERY:
            self._pruned = now
            await hooks.forget(self._call, _KEPT, now - _KEPT_FOR)
        there = {one.id: one for one in await hooks.endpoints(self._call) if one.enabled}
        self._tasks = {id: task for id, task in self._tasks.items() if not task.done()}
        self._read = {id: seq for id, seq in self._read.items() if id in there}
        if not there:
            return
        waiting = await self._make(there)
        now = vms.now()
        for id in {one.endpoint for one in waiting if one.due <= now} - self._tasks.keys():
            self._tasks[id] = asyncio.create_task(self._serve(id), name=f"webhooks of {id}")

    # -- making ------------------------------------------------------------------------------------------------------

    async def _make(self, there: dict[str, Endpoint]) -> Sequence[Delivery]:
        """Read on for each, as far as there is room; all that wait then."""
        waiting = await hooks.due(self._call, list(there))
        last, cursors = await self._call.core.courier.last(), await hooks.cursors(self._call)
        for id, endpoint in there.items():
            if id not in cursors or sum(one.endpoint == id for one in waiting) >= hooks.MOST_DUE - _BATCH:
                continue
            row, seq = cursors[id]
            try:
                waiting += await self._read_on(endpoint, row, seq, last)
            except NotFound:
                log.info("webhook endpoint %s is gone", id)
        return waiting

    async def _read_on(self, endpoint: Endpoint, cursor: Row, seq: int, last: int) -> Sequence[Delivery]:
        """`_read` remembers what was of no interest, so that a quiet endpoint costs no commit."""
        seq = max(seq, self._read.get(endpoint.id, 0))
        if seq >= last:
            return []
        call, now = self._call, vms.now()
        events = list(await call.core.courier.events(endpoint.project, seq, _BATCH))
        settled = [one for one in events if not timedelta(0) <= now - one.at < _SETTLES]
        if events[: len(settled)] != settled:  # clocks go back, too
            settled = []
        wanted = [(one, kind) for one in settled if (kind := self._wanted(endpoint, one))]
        if wanted:
            known = await happenings.sessions_of(call, [event for event, _ in wanted])
            made = [
                hooks.new_delivery(endpoint, happenings.event_id(one), kind, happenings.payload(one, kind, known))
                for one, kind in wanted
            ]
            await hooks.advance(call, cursor, settled[-1].seq, made)
            return await hooks.due(call, [endpoint.id])
        if settled or not events:
            self._read[endpoint.id] = settled[-1].seq if settled else last
        return []

    @staticmethod
    def _wanted(endpoint: Endpoint, event: Event) -> str | None:
        kind = happenings.kind_of(event)
        return kind if kind and happenings.matches(endpoint.patterns, kind) else None

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _serve(self, id: str) -> None:
        """Send an endpoint what is due, in its order; it may be changed in between."""
        try:
            now = vms.now()
            for delivery in await hooks.due(self._call, [id]):
                endpoint = await hooks.find(self._call, id)
                if not endpoint.enabled:
                    return
                if delivery.due <= now:
                    receipt = await self.send(endpoint, delivery.body)
                    await self._call.core.courier.write([judged(delivery, receipt, endpoint.retries).row()])
        except NotFound:
            log.info("webhook endpoint %s is gone", id)
        except Fault as fault:
            log.warning("webhooks of %s: %s %s", id, fault.public, fault.private)
        except Exception:
            log.exception("webhooks of %s stumbled; they are tried again", id)

    async def send(self, endpoint: Endpoint, body: str) -> Receipt:
        """One try, signed as of now."""
        places = self._places.setdefault(endpoint.project, asyncio.Semaphore(_PLACES))
        async with places:
            sent = body.encode()
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "polyvisor-webhooks",
                HEADER: signature(endpoint.secret, int(vms.now().timestamp()), sent),
            }
            letter = Letter(endpoint.url, sent, headers, endpoint.timeout)
            return await self._call.core.courier.post(letter, private=self._call.settings.webhooks_private)

    async def challenge(self, endpoint: Endpoint) -> Receipt:
        """Ask it whether it is there."""
        data = {"endpoint_id": endpoint.id, "challenge": secrets.token_urlsafe(16)}
        id = f"evt_{secrets.token_hex(8)}"
        return await self.send(endpoint, happenings.body(id, happenings.CHALLENGE, vms.stamp(vms.now()), data))
