"""Images, who may use them and what each project calls them.

The record is one for the host. The names in it are those that still hold for who asks: a name belongs to one
image of a project at a time and moves to the newest that claims it; what another project calls the image is
not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import delete, insert, select, update

from polyvisor.model.faults import NotFound
from polyvisor.model.ids import Digest, ProjectId
from polyvisor.model.image import Image
from polyvisor.store import codec
from polyvisor.store.tables import image_grants, image_names, images
from polyvisor.store.work import Work

EVERYBODY = ProjectId("")

_CODEC = codec.Codec(Image, remember=256)
_g, _n = image_grants.c, image_names.c


class SqlImageNames:
    """See `ports.store.ImageNames`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def put(self, image: Image, project: ProjectId) -> None:
        """Insert or replace by digest; the project's names for it become those given."""
        row: dict[str, Any] = {"record": _CODEC.encode(image), "created": codec.micros(image.created)}
        if not await self._work.change(update(images).where(images.c.digest == image.id).values(row)):
            await self._work.change(insert(images).values(digest=image.id, **row))
        grant = {"project": project, "digest": image.id}
        if await self._work.row(select(_g.digest).filter_by(**grant)) is None:
            await self._work.change(insert(image_grants).values(grant))
        mine = (_n.project == project) & ((_n.digest == image.id) | _n.name.in_(image.names))
        await self._work.change(delete(image_names).where(mine))
        names = [{"name": name, **grant} for name in dict.fromkeys(image.names)]
        if names:
            await self._work.change(insert(image_names).values(names))

    async def find(self, name: str, project: ProjectId) -> Image:
        """By name, the project's own before everybody's, or by digest."""
        seen_by = (project, EVERYBODY)
        query = select(_n.digest, _n.project).where(_n.name == name, _n.project.in_(seen_by))
        found = {row.project: row.digest for row in await self._work.rows(query)}
        digest = found.get(project) or found.get(EVERYBODY) or name
        for image in await self._those(project, digest):
            return image
        raise NotFound("there is no such image", subject=name)

    async def all(self, project: ProjectId | None) -> Sequence[Image]:
        """Those the project may use, oldest first."""
        return await self._those(project, None)

    async def forget(self, digest: Digest) -> None:
        """Delete the record; grants and names go with it."""
        await self._work.revise(delete(images).where(images.c.digest == digest), digest, "image")

    async def _those(self, project: ProjectId | None, digest: str | None) -> list[Image]:
        query = select(images.c.digest, images.c.record).order_by(images.c.created, images.c.digest)
        names = select(_n.digest, _n.name).order_by(_n.name)
        if digest is not None:
            query, names = query.where(images.c.digest == digest), names.where(_n.digest == digest)
        if project is not None:
            seen_by = (project, EVERYBODY)
            granted = select(_g.digest).where(_g.project.in_(seen_by))
            query, names = query.where(images.c.digest.in_(granted)), names.where(_n.project.in_(seen_by))
        called: dict[str, list[str]] = {}
        for row in await self._work.rows(names):
            called.setdefault(row.digest, []).append(row.name)
        return [_named(_CODEC.decode(row.record), called.get(row.digest, [])) for row in await self._work.rows(query)]


def _named(image: Image, names: Sequence[str]) -> Image:
    """The image with the names that hold: first, and in its order, those that it came with."""
    kept = [name for name in image.names if name in names]
    return replace(image, names=tuple(dict.fromkeys([*kept, *names])))
