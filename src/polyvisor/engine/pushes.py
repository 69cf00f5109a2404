"""Pushes: images taken to registries, a few at a time. They are remembered by this server's process alone, as fetches
are: one that is cut short has to be asked for again, with its login."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from polyvisor.access.grants import permit, require, scope
from polyvisor.engine.images import ImagesEngine
from polyvisor.model.faults import Fault, NotFound, OverQuota, Unsupported
from polyvisor.model.ids import PushId, mint
from polyvisor.model.image import ImageKind
from polyvisor.model.principal import Action, Principal
from polyvisor.model.push import Login, Push, PushState
from polyvisor.ports.host import Host

log = logging.getLogger("polyvisor.engine")
AT_ONCE = 2
MOST_OPEN = 100  # of one project
_REMEMBERED = 1000
_OVER = frozenset({PushState.PUSHED, PushState.FAILED})


class PushesEngine:
    """Begin one, tell of them."""

    def __init__(self, images: ImagesEngine, host: Host, clock: Callable[[], datetime]) -> None:
        self._images = images
        self._host = host
        self._clock = clock
        self._pushes: dict[PushId, Push] = {}  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def create(
        self, principal: Principal, image: str, target: str, *, insecure: bool = False, login: Login | None = None
    ) -> Push:
        """Begin to take an image that is here to a registry. It goes on when the caller does not wait.

        :raise NotFound: no such image. :raise Unsupported: a disk is for no registry. :raise OverQuota:
        :raise Forbidden: not to there. :raise Invalid: the target is no full name with a tag, or `insecure` where only
        the operator may say so.
        """
        require(principal, Action.IMAGE_CREATE)
        found = await self._images.get(principal, image)
        if found.kind is ImageKind.DISK:
            raise Unsupported("image: a disk image cannot be pushed", field="image")
        full = await self._host.images.vet_target(target, trusted=principal.operator, insecure=insecure)
        if (
            sum(one.project == principal.project and one.state not in _OVER for one in self._pushes.values())
            >= MOST_OPEN
        ):
            raise OverQuota(f"a project has at most {MOST_OPEN} pushes under way")
        push = Push(PushId(mint()), principal.project, image, found.id, full, self._clock())
        self._pushes[push.id] = push
        self._forget()
        work = self._carry(push, trusted=principal.operator, insecure=insecure, login=login)
        task = asyncio.create_task(work, name=f"push {push.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self._told(push.id)

    def _forget(self) -> None:
        over = [id for id, one in self._pushes.items() if one.state in _OVER]
        for id in over[: max(0, len(self._pushes) - _REMEMBERED)]:
            del self._pushes[id]

    async def _carry(self, push: Push, *, trusted: bool, insecure: bool, login: Login | None) -> None:
        async with self._room:
            push = self._note(replace(push, state=PushState.PUSHING))
            try:
                sent = await self._host.images.push(
                    push.digest, push.target, trusted=trusted, insecure=insecure, login=login
                )
                self._note(replace(push, state=PushState.PUSHED, sent=sent, completed=self._clock()))
            except Fault as fault:
                log.warning("push %s: %s %s", push.id, fault.public, fault.private)
                self._note(replace(push, state=PushState.FAILED, error=fault.public, completed=self._clock()))
            except Exception:
                log.exception("push %s", push.id)
                words = "something went wrong on our side"
                self._note(replace(push, state=PushState.FAILED, error=words, completed=self._clock()))

    def _note(self, push: Push) -> Push:
        self._pushes[push.id] = push
        return push

    def _told(self, id: PushId) -> Push:
        push = self._pushes[id]
        if push.state is not PushState.QUEUED:
            return push
        waiting = [one.id for one in self._pushes.values() if one.state is PushState.QUEUED]
        return replace(push, position=waiting.index(id) + 1)

    async def get(self, principal: Principal, id: str) -> Push:
        """:raise NotFound:"""
        push = self._pushes.get(PushId(id))
        if push is None:
            raise NotFound(f"no push {id[:80]!r}", subject=id)
        permit(principal, Action.IMAGE_VIEW, push.project, id)
        return self._told(push.id)

    async def list(self, principal: Principal) -> Sequence[Push]:
        """Newest first."""
        require(principal, Action.IMAGE_VIEW)
        whose = scope(principal, Action.IMAGE_VIEW)
        return [self._told(one.id) for one in reversed(self._pushes.values()) if whose is None or one.project in whose]

    async def close(self) -> None:
        """The server goes; what is under way is given up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
