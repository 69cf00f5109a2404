"""Builds: asked for, made a few at a time while nobody waits, told of as they go on.

What they are is in rows of our own, so it is known after a restart; what was under way then has failed, and says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from polyvisor.access.grants import permit, require, scope
from polyvisor.engine.builders import BuildersEngine
from polyvisor.engine.building import Task, Told, Works
from polyvisor.engine.buildlog import TABLE, Log, build_of, log_of, row_of
from polyvisor.engine.images import BUILT_IN, ImagesEngine
from polyvisor.engine.sources import Source, look
from polyvisor.model.build import Build, BuildAsk, BuildId, BuildNews, BuildState, Provenance, check_build
from polyvisor.model.dockerfile import bases_of
from polyvisor.model.faults import Exists, Fault, Invalid, NotFound, OverQuota, WrongState
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId, mint
from polyvisor.model.image import parse_digest, parse_reference
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.model.units import GIB
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
LARGEST_SOURCE = 2 * GIB
AT_ONCE = 2
MOST_OPEN = 50  # of one project
_REMEMBERED = 500  # of one project
_BUILD, _LOG = "build", "log"
_HEARTBEAT = 30.0
_LONGEST_SECRET = 64 * 1024


@dataclass(slots=True)
class _Job:
    """A build under way. `given_up`: by who may cancel it, rather than by the server's end."""

    build: Build
    log: Log
    task: asyncio.Task[None] | None = None
    given_up: bool = False


class BuildsEngine:
    """Begin one, tell of them, cancel."""

    def __init__(
        self, store: Store, images: ImagesEngine, works: Works, builders: BuildersEngine,
        clock: Callable[[], datetime], secrets: Path | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._images = images
        self._works = works
        self._builders = builders
        self._clock = clock
        self._secrets = secrets
        self._jobs: dict[BuildId, _Job] = {}  # oldest first
        self._room, self._looks = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(AT_ONCE)
        self._aside: set[asyncio.Task[None]] = set()
        self.heartbeat = _HEARTBEAT
        builders.open_on = self.open_on

    async def create(self, principal: Principal, ask: BuildAsk, chunks: AsyncIterator[bytes], length: int = 0) -> Build:
        """Begin one of a source, a tar.gz of `length` bytes (0: not known). It goes on when the caller does not wait.

        :raise Invalid: naming the field. :raise NotFound: there is no such builder. :raise Busy: it takes none now.
        :raise OverQuota: the project has too many under way. :raise NoCapacity:
        """
        require(principal, Action.IMAGE_CREATE)
        require(principal, Action.INSTANCE_CREATE)
        check_build(ask)
        if sum(job.build.project == principal.project for job in self._jobs.values()) >= MOST_OPEN:
            raise OverQuota(f"a project has at most {MOST_OPEN} builds under way")
        build = Build(BuildId(mint()), principal.project, "", self._clock(), builder=ask.builder, labels=ask.labels)
        build = replace(build, image=_image_name(ask.image or f"builds/{build.id}"))
        if ask.base:
            parse_digest(ask.base, "base_image_digest")
        values = {one.id: await asyncio.to_thread(self._secret, principal, one.id) for one in ask.secrets}
        if ask.builder:
            await self._builders.usable(principal, ask.builder)
        part = self._images.uploads / mint()
        try:
            await self._images.receive(part, chunks, LARGEST_SOURCE, length)
            async with self._looks:
                source = await asyncio.to_thread(look, part)
            task = Task(build, ask, part, _instructions(ask, source), (), values)
            task = replace(task, bases=bases_of(task.dockerfile))
            build = replace(build, provenance=Provenance(source.digest, source.locks))
            (build,) = await self._add(build)
            job = _Job(build, Log(self._clock, values.values()))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        job.log.state(BuildState.QUEUED)
        self._jobs[build.id] = job
        job.task = asyncio.create_task(self._carry(principal, job, task), name=f"build {build.id}")
        told = self._told(job)
        await asyncio.sleep(0)  # it has begun: whatever becomes of it now, it says so
        return told

    def _secret(self, principal: Principal, id: str) -> str:
        """The value of one: a file of the operator's. Blocking. :raise Invalid:"""
        places = [] if self._secrets is None else [self._secrets / principal.project / id]
        if principal.operator and self._secrets is not None:
            places.append(self._secrets / id)
        for place in places:
            try:
                data = place.read_bytes()
                if len(data) <= _LONGEST_SECRET and b"\0" not in data:
                    return data.decode()
            except (OSError, UnicodeDecodeError):
                continue
        raise Invalid(f"secrets: there is no secret {id[:80]!r}", field="secrets")

    async def _add(self, build: Build) -> Sequence[Build]:
        """Written down; the oldest that are over are forgotten, where there are many."""
        async with self._store.write() as unit:
            known = [row for row in await unit.rows.of(TABLE, [_BUILD]) if row.project == build.project]
            over = [row for row in known if build_of(row).state.over]
            for row in over[: max(0, len(known) + 1 - _REMEMBERED)]:
                await unit.rows.remove(row.key)
                for told in await unit.rows.of(TABLE, [_LOG], [row.name]):
                    await unit.rows.remove(told.key)
            row = await unit.rows.add(row_of(build, _BUILD))
            return [replace(build, key=row.key)]

    # -- making ------------------------------------------------------------------------------------------------------

    async def _carry(self, principal: Principal, job: _Job, task: Task) -> None:
        state, error = BuildState.FAILED, "something went wrong on our side"
        try:
            async with self._builders.turn(job.build.project, job.build.builder, job.build.id) as volume, self._room:
                await self._make(principal, job, replace(task, volume=volume))
            state, error = BuildState.READY, ""
        except Fault as fault:
            error = fault.public
        except asyncio.CancelledError:
            state, error = BuildState.CANCELLED, ""
            if not job.given_up:
                state, error = BuildState.FAILED, "the server was stopped meanwhile"
        except Exception:
            log.exception("build %s", job.build.id)
        finally:
            task.source.unlink(missing_ok=True)
            await asyncio.shield(asyncio.create_task(self._over(job, state, error)))

    async def _make(self, principal: Principal, job: _Job, task: Task) -> None:
        async def machine(instance: Instance) -> None:
            job.build = replace(job.build, instance=instance.id)
            await self._note(job, job.build.state)

        async def pushing() -> None:
            await self._note(job, BuildState.PUSHING)

        job.build = replace(job.build, started=self._clock())
        await self._note(job, BuildState.BUILDING)
        try:
            await self._works.ready(principal)
            async with asyncio.timeout(task.ask.timeout):
                told = Told(job.log.line, machine, pushing)
                image, base = await self._works.make(principal, replace(task, build=job.build), told)
        except TimeoutError:
            raise Invalid(f"it took longer than {task.ask.timeout:g} seconds") from None
        finally:
            cleared = asyncio.create_task(self._works.clear(job.build))
            await asyncio.shield(cleared)
        job.build = replace(job.build, digest=image.id, provenance=replace(job.build.provenance, base=base))

    async def _over(self, job: _Job, state: BuildState, error: str) -> None:
        job.build = replace(job.build, error=job.log.masked(error), completed=self._clock())
        if error:
            job.log.line(error)
        try:
            await self._note(job, state)
        except NotFound:  # its project is no more
            log.warning("build %s is over, and its record gone", job.build.id)
        finally:
            job.log.close()
            self._jobs.pop(job.build.id, None)

    async def _note(self, job: _Job, state: BuildState) -> None:
        if state is not job.build.state:
            job.build = replace(job.build, state=state)
            job.log.state(state)
        async with self._store.write() as unit:
            await unit.rows.save(row_of(job.build, _BUILD))
            told = Row(TABLE, _LOG, job.build.id, job.build.project, job.build.id, job.log.text())
            known = await unit.rows.of(TABLE, [_LOG], [job.build.id])
            await (unit.rows.save(replace(told, key=known[0].key)) if known else unit.rows.add(told))

    # -- reading -----------------------------------------------------------------------------------------------------

    def _told(self, job: _Job) -> Build:
        if job.build.state is not BuildState.QUEUED:
            return job.build
        waiting = [one.build.id for one in self._jobs.values() if one.build.state is BuildState.QUEUED]
        return replace(job.build, position=waiting.index(job.build.id) + 1)

    def open_on(self, project: ProjectId, builder: str) -> tuple[BuildId | None, tuple[BuildId, ...]]:
        """The build that runs on a builder, and those that wait for it."""
        there = [
            job.build for job in self._jobs.values() if (job.build.project, job.build.builder) == (project, builder)
        ]
        active = next((one.id for one in there if one.state is not BuildState.QUEUED), None)
        return active, tuple(one.id for one in there if one.state is BuildState.QUEUED)

    async def get(self, principal: Principal, id: str) -> Build:
        """:raise NotFound:"""
        return await self._find(principal, id, Action.IMAGE_VIEW)

    async def _find(self, principal: Principal, id: str, action: Action) -> Build:
        job = self._jobs.get(BuildId(id))
        found = self._told(job) if job is not None else None
        if found is None and "\0" not in id:
            async with self._store.read() as unit:
                rows = await unit.rows.of(TABLE, [_BUILD], [id])
            found = build_of(rows[0]) if rows else None
        if found is None:
            raise NotFound(f"no build {id[:80]!r}", subject=id[:80])
        permit(principal, action, found.project, id)
        return found

    async def list(self, principal: Principal) -> Sequence[Build]:
        """Newest first."""
        whose = scope(principal, Action.IMAGE_VIEW)
        async with self._store.read() as unit:
            rows = await unit.rows.of(TABLE, [_BUILD])
        found = [build_of(row) for row in reversed(rows) if whose is None or row.project in whose]
        return [self._told(self._jobs[one.id]) if one.id in self._jobs else one for one in found]

    async def news(self, principal: Principal, id: str, *, follow: bool) -> AsyncIterator[BuildNews]:
        """What it said and what became of it; with `follow` until it is over, and now and then that nothing was.

        :raise NotFound:
        """
        build = await self.get(principal, id)
        job = self._jobs.get(build.id)
        if job is not None:
            return job.log.news(follow=follow, pause=self.heartbeat)
        async with self._store.read() as unit:
            rows = await unit.rows.of(TABLE, [_LOG], [build.id])
        return log_of(rows[0].data if rows else "[]", self._clock).news(follow=False, pause=self.heartbeat)

    # -- ending ------------------------------------------------------------------------------------------------------

    async def cancel(self, principal: Principal, id: str) -> Build:
        """It is not made any more, and nothing of it is left. :raise NotFound: :raise WrongState: it is over."""
        build = await self._find(principal, id, Action.IMAGE_DELETE)
        job = self._jobs.get(build.id)
        if job is None or job.task is None or build.state.over:
            raise WrongState(f"the build is {build.state} already")
        job.given_up = True
        job.task.cancel()
        await asyncio.wait([job.task])
        if job.build.state is not BuildState.CANCELLED:  # it was over in that moment
            raise WrongState(f"the build is {job.build.state} already")
        return job.build

    async def recover(self) -> None:
        """What a server was making when it ended has failed; its machines go. Called once, at the server's start."""
        async with self._store.write() as unit:
            left = [one for one in map(build_of, await unit.rows.of(TABLE, [_BUILD])) if not one.state.over]
            for build in left:
                words = "the server was stopped meanwhile"
                failed = replace(build, state=BuildState.FAILED, error=words, completed=self._clock())
                await unit.rows.save(row_of(failed, _BUILD))
        for build in left:
            work = asyncio.create_task(self._works.clear(build), name=f"clear {build.id}")
            self._aside.add(work)
            work.add_done_callback(self._aside.discard)

    async def close(self) -> None:
        """The server goes; what is under way is given up, and has failed."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in (*tasks, *self._aside):
            task.cancel()
        await asyncio.gather(*tasks, *self._aside, return_exceptions=True)


def _image_name(asked: str) -> str:
    """:raise Invalid: nothing can be called so."""
    found = parse_reference(asked, field="image_name")
    if found.digest:
        raise Invalid("image_name: must be a name with or without a tag, not a digest", field="image_name")
    if found.short in BUILT_IN and not found.registry:
        raise Exists(f"image_name: {found.short} is a built-in image", field="image_name")
    return str(found)


def _instructions(ask: BuildAsk, source: Source) -> str:
    if ask.dockerfile.strip():
        return ask.dockerfile
    if source.dockerfile is None or not source.dockerfile.strip():
        raise Invalid("dockerfile: there is none in the source, and none was given", field="dockerfile")
    return source.dockerfile
