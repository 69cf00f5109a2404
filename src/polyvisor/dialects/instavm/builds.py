"""Snapshots made of an image of a registry: a VM of it, what is to be done in that, and its disk (instavm.md §1.8).

One is asked for, and made while nobody waits. What a server was making when it ended has failed, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from polyvisor.dialects.instavm import vms
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.dialects.instavm.wire import BuildArgs, BuildRequest
from polyvisor.engine.instances import Until
from polyvisor.engine.workshop import UP_LIMIT
from polyvisor.model.faults import Fault, Forbidden, Invalid, NotFound, OverQuota
from polyvisor.model.foreign import Foreign, Row
from polyvisor.model.guest import Exec
from polyvisor.model.ids import ProjectId, mint
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action
from polyvisor.model.request import Create
from polyvisor.model.snapshot import Snapshot
from polyvisor.model.spec import check_env
from polyvisor.model.units import GIB, MIB, Bytes, Seconds

log = logging.getLogger("polyvisor.instavm")
BUILD = "build"
BUILDING, READY, FAILED = "building", "ready", "failed"
_PREFIX = "snap_"
_STEP_LIMIT = Seconds(1500.0)
_AT_ONCE, _WAITING = 2, 20
_TAIL = 1500  # characters of what a step said that are kept of a failure
_PACKAGE = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@._+:/=<>~!^,\[\]-]*")
_URL = re.compile(r"(https?|ssh|git)://[^\s'\"\\]+|[\w.-]+@[\w.-]+:[^\s'\"\\]+")
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")  # in a URL: who clones may have shown a token
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


@dataclass(frozen=True, slots=True)
class Build:
    """`snapshot` is ours, once there is one; `instance` the VM that it is made in, while that is there."""

    id: str
    project: ProjectId
    name: str
    image: str
    created: datetime
    system: bool
    status: str = BUILDING
    error: str = ""
    snapshot: str = ""
    instance: str = ""
    size: int = 0
    key: int = 0

    def row(self) -> Row:
        """As it is kept."""
        told = {name: one for name, one in asdict(self).items() if name not in ("id", "project", "key")}
        told["created"] = self.created.isoformat()
        return Row(DIALECT, BUILD, self.id, self.project, self.id, json.dumps(told), self.key)


def _build(row: Row) -> Build:
    data = json.loads(row.data)
    data["created"] = datetime.fromisoformat(data["created"])
    return Build(row.name, row.project, key=row.key, **data)


async def everything(call: Call) -> list[Build]:
    """All that the caller may see, oldest first."""
    rows = await call.core.rows.of(DIALECT, [BUILD])
    return [_build(row) for row in rows if call.principal.may(Action.SNAPSHOT_VIEW, row.project)]


async def find(call: Call, id: str) -> Build | None:
    """One, if that is one."""
    for row in await call.core.rows.of(DIALECT, [BUILD], [id]):
        if call.principal.may(Action.SNAPSHOT_VIEW, row.project):
            return _build(row)
    return None


# -- what is to be done ------------------------------------------------------------------------------------------------


def steps_of(args: BuildArgs) -> list[str]:
    """As lines for a shell. :raise Invalid: naming the argument that is wrong."""
    found = []
    if names := _packages(args.extra_apt_packages, "extra_apt_packages"):
        found.append(f"export DEBIAN_FRONTEND=noninteractive; apt-get update && apt-get install -y {names}")
    if names := _packages(args.extra_pip_packages, "extra_pip_packages"):
        found.append(f"python3 -m pip install {names} || pip install {names}")
    if names := _packages(args.extra_npm_packages, "extra_npm_packages"):
        found.append(f"npm install -g {names}")
    if args.git_clone_url:
        found.append(f"mkdir -p /app && git clone {_source(args)} /app/repo")
    if args.post_build_cmd:
        found.append(args.post_build_cmd)
    return found


def _packages(text: str | None, name: str) -> str:
    words = (text or "").split()
    for word in words:
        if not _PACKAGE.fullmatch(word):
            raise _wrong(name, f"{word[:80]!r} cannot be a package")
    return " ".join(map(shlex.quote, words))


def _source(args: BuildArgs) -> str:
    url, branch = args.git_clone_url or "", args.git_clone_branch
    if not _URL.fullmatch(url):
        raise _wrong("git_clone_url", "must be the URL of a repository")
    if branch and not _BRANCH.fullmatch(branch):
        raise _wrong("git_clone_branch", "cannot be a branch")
    return f"{f'--branch {shlex.quote(branch)} ' if branch else ''}-- {shlex.quote(url)}"


def _wrong(name: str, text: str) -> Invalid:
    return Invalid(f"build_args.{name}: {text}", field=f"build_args.{name}")


def _command(args: BuildArgs) -> tuple[str, ...]:
    """What VMs of it run. An application that ends does not end its VM."""
    if not args.template_app_cmd:
        return vms.FOREVER
    place = shlex.quote(args.template_app_cwd or "/app")
    return ("sh", "-c", f"cd {place} && {{ {args.template_app_cmd}\n}} & exec {shlex.join(vms.FOREVER)}")


# -- making ------------------------------------------------------------------------------------------------------------


class Builds:
    """Those that are under way."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def begin(self, call: Call, body: BuildRequest) -> Build:
        """Accepted. :raise Invalid, Forbidden: nothing is begun."""
        args = body.build_args or BuildArgs()
        steps = steps_of(args)
        env = tuple((args.envs or {}).items())
        try:
            check_env(env)
        except Invalid as fault:
            raise _wrong("envs", fault.public.removeprefix("env: ")) from fault
        if body.type == "system" and not call.principal.operator:
            raise Forbidden("only an operator makes snapshots of type system")
        if len(self._tasks) >= _WAITING:
            raise OverQuota("too many snapshots are being made; try again later")
        build = Build(
            _PREFIX + mint(), call.principal.project, body.name or body.oci_image, body.oci_image, vms.now(),
            body.type == "system",
        )  # fmt: skip
        (row,) = await call.core.rows.add(call.principal, [build.row()], Action.SNAPSHOT_CREATE)
        build = replace(build, key=row.key)
        wanted = Create(
            image=body.oci_image, vcpus=body.vcpu_count, memory=Bytes(body.memory_mb * MIB), env=env, entrypoint=(),
            command=_command(args), disk=Bytes(args.disk_size_gb * GIB) if args.disk_size_gb else None,
        )  # fmt: skip
        task = asyncio.create_task(self._make(call, build, wanted, steps), name=f"build {build.id}")
        self._tasks[build.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(build.id, None))
        return build

    async def _make(self, call: Call, build: Build, wanted: Create, steps: Sequence[str]) -> None:
        try:
            async with self._turns:
                build = await self._made(call, build, wanted, steps)
        except Fault as fault:
            build = replace(await find(call, build.id) or build, status=FAILED, error=fault.public)
        except Exception:
            log.exception("%s stumbled", build.id)
            failed = await find(call, build.id) or build
            build = replace(failed, status=FAILED, error="something went wrong on our side")
        await _save(call, replace(build, instance=""))

    async def _made(self, call: Call, build: Build, wanted: Create, steps: Sequence[str]) -> Build:
        async def note(instance: Instance) -> None:
            await _save(call, replace(build, instance=instance.id))

        async with call.core.workshop.open(call.principal, wanted, note) as instance:
            for step in steps:
                ended, out, err = await call.core.streams.run(
                    call.principal, instance.id, Exec(("sh", "-c", step), timeout=_STEP_LIMIT)
                )
                if ended.code != 0:
                    said = (out + err)[-_TAIL:].decode("utf-8", "replace").strip()
                    how = "took too long" if ended.timed_out else f"exit {ended.code}: {said}"
                    raise Invalid(_LOGIN.sub("", f"{step[:200]}: {how}"))
            await call.core.streams.sync(call.principal, instance.id)
            made = await _disk_of(call, build, instance.id)
        return replace(build, status=READY, snapshot=made.id, size=made.size)

    async def stop(self, id: str) -> None:
        """It is not made any more, when this returns."""
        task = self._tasks.get(id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def recover(self, call: Call) -> None:
        """Those that another server was making have failed; their VMs go."""
        for build in await everything(call):
            if build.status != BUILDING or build.id in self._tasks:
                continue
            if build.instance:
                await call.core.workshop.clear(build.project, build.instance)
            await _save(call, replace(build, status=FAILED, error="the server was stopped meanwhile", instance=""))

    async def close(self) -> None:
        """Stop; the next start says that they failed."""
        for id in list(self._tasks):
            await self.stop(id)


async def _disk_of(call: Call, build: Build, instance: str) -> Snapshot:
    """Its disk. Its row names that from the first moment: whatever becomes of the build, it goes with it."""
    foreign = Foreign(DIALECT, json.dumps({"build": build.id}))
    taken = await call.core.snapshots.create(call.principal, instance, foreign=foreign)
    await _save(call, replace(build, instance=instance, snapshot=taken.snapshot.id))
    return await call.core.snapshots.settle(taken, Until.LAUNCHED, UP_LIMIT)


async def _save(call: Call, build: Build) -> None:
    with contextlib.suppress(NotFound):  # it was deleted meanwhile
        await call.core.rows.save(call.principal, [build.row()], Action.SNAPSHOT_CREATE)


async def delete(call: Call, builds: Builds, build: Build) -> None:
    """It is no more; one that is being made is not made. :raise Forbidden: it is made all the same."""
    if not call.principal.may(Action.SNAPSHOT_DELETE, build.project):
        raise Forbidden("you may not delete this snapshot", subject=build.id)
    await builds.stop(build.id)
    build = await find(call, build.id) or build
    if build.snapshot:
        with contextlib.suppress(NotFound):
            await call.core.snapshots.delete(call.principal, build.snapshot)
    with contextlib.suppress(NotFound):
        await call.core.rows.remove(call.principal, [build.row()], Action.SNAPSHOT_DELETE)


def told(build: Build) -> dict[str, Any]:
    """As the routes of snapshots have it."""
    kind = "system" if build.system else "user"
    return {
        "id": build.id,
        "snapshot_id": build.id,
        "name": build.name,
        "status": build.status,
        "type": kind,
        "snapshot_type": kind,
        "is_public": build.system,
        "oci_image": build.image,
        "size_bytes": build.size,
        "created_at": vms.stamp(build.created),
        "last_error": build.error or None,
        "vm_id": None,
    }
