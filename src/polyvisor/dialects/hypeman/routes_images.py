"""Images over HTTP. A fetch is answered with 202 and goes on; one that failed is told of until it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks, policies, wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.names import ours, reference_of, spelt_out
from polyvisor.dialects.hypeman.pulling import HOST_PLATFORM, begin, find_image, platform_for
from polyvisor.dialects.hypeman.resolve import DIALECT
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.dialects.hypeman.translate import Kept, foreign_of, kept_of
from polyvisor.engine.images import Pull
from polyvisor.model.faults import NotFound
from polyvisor.model.image import Image

routes = Routes()
_CONVERTING = ("unpacking", "reading", "writing", "rewriting")
_A_MOMENT = 2.0  # an image that is fetched by then is answered ready


def _subject(call: Call, name: str) -> str:
    """What a name's tags are kept with: they are the name's and the project's."""
    return f"image/{call.principal.project}/{name}"


async def _tags(call: Call, names: list[str]) -> Mapping[str, Kept]:
    subjects = {_subject(call, name): name for name in names}
    texts = await call.core.foreigners.remainders(DIALECT, list(subjects))
    return {subjects[subject]: kept_of(text) for subject, text in texts.items()}


@routes.add("GET /images", "image:read", 200, list[wire.Image], query=asks.ListTagged)
async def list_images(call: Call) -> Response:
    """Every image, once for each of its names, and those that are being fetched."""
    query: asks.ListTagged = call.query
    fetching = call.core.images.fetching(call.principal)
    ready = [(name, image) for image in await call.core.images.list(call.principal) for name in image.names]
    ready = [(name, image) for name, image in ready if not _is_pushed_anew(fetching.get(name))]
    known = {name for name, _ in ready}
    tags = await _tags(call, [*known, *fetching])
    found = [image_to(name, image, tags.get(name, {})) for name, image in ready]
    found += [pull_to(name, pull, tags.get(name, {})) for name, pull in fetching.items() if name not in known]
    wanted = (query.tags or {}).items()
    return said([one for one in found if wanted <= dict(one.tags or {}).items()])


@routes.add("POST /images", "image:write", 202, wire.Image, body=asks.CreateImageRequest)
async def create_image(call: Call) -> Response:
    """Fetch an image, or find that it is here."""
    body: asks.CreateImageRequest = call.body
    policies.check_tags(body.tags)
    if body.credentials is not None and any(body.credentials.model_dump().values()):
        raise Refusal(400, "invalid_request", "credentials: images are fetched without any by this server")
    platform_for(body.platform)
    reference_of(body.name)
    try:
        name, image = await find_image(call, body.name)
        pull = None
    except NotFound:
        name, pull = await begin(call, body.name)
        image = None
    kept = {"tags": body.tags} if body.tags else {}
    await call.core.foreigners.put(call.principal.project, _subject(call, name), foreign_of(kept))
    if pull is not None:
        done, _ = await asyncio.wait({pull.task}, timeout=_A_MOMENT)
        if done and not pull.error:
            image = pull.task.result()
    if image is not None:
        return said(image_to(name, image, kept), 202)
    assert pull is not None
    return said(pull_to(name, pull, kept), 202)


@routes.add("POST /images/{name:path}/tag", "image:write", 200, wire.Image, body=asks.TagImageRequest, shadows=True)
async def tag_image(call: Call) -> Response:
    """Another name for an image."""
    body: asks.TagImageRequest = call.body
    target = reference_of(body.target)
    if target.digest:
        raise Refusal(400, "invalid_request", "invalid target: a digest cannot be given as a name")
    try:
        _, image = await find_image(call, call.path("name"))
    except NotFound:
        if _fetch(call, call.path("name")) is not None:
            raise Refusal(409, "image_not_ready", "image is not ready") from None
        raise Refusal(404, "not_found", "resource not found") from None
    name = ours(body.target)
    await call.core.images.name(call.principal, image, name)
    return said(image_to(name, image, (await _tags(call, [name])).get(name, {})))


@routes.add("GET /images/{name:path}", "image:read", 200, wire.Image)
async def get_image(call: Call) -> Response:
    """One image, by any way to write its name."""
    asked = call.path("name")
    found = _fetch(call, asked)
    try:
        name, image = await find_image(call, asked)
        if found is not None and _is_pushed_anew(found[1]):
            raise NotFound
        return said(image_to(name, image, (await _tags(call, [name])).get(name, {})))
    except NotFound:
        if found is None:
            raise Refusal(404, "not_found", "resource not found") from None
    return said(pull_to(*found, (await _tags(call, [found[0]])).get(found[0], {})))


def _is_pushed_anew(pull: Pull | None) -> bool:
    """Whether another image of that name is being made: who pushed it waits for that one."""
    return pull is not None and bool(pull.digest) and not pull.error


def _fetch(call: Call, asked: str) -> tuple[str, Pull] | None:
    """A fetch under way, or one that failed."""
    if asked.startswith("sha256:"):
        return None
    fetching = call.core.images.fetching(call.principal)
    for name in (ours(asked), spelt_out(asked)):
        if name in fetching:
            return name, fetching[name]
    return None


@routes.add("DELETE /images/{name:path}", "image:delete", 204, None)
async def delete_image(call: Call) -> Response:
    """The name is gone, and the image with its last one; not while an instance or a snapshot needs it."""
    asked = call.path("name")
    try:
        name, _ = await find_image(call, asked)
    except NotFound:
        found = _fetch(call, asked)
        if found is None or not call.core.images.forget(call.principal, found[0]):
            raise Refusal(404, "not_found", "resource not found") from None
        return Response(status_code=204)
    await call.core.images.unname(call.principal, name)
    await call.core.foreigners.put(call.principal.project, _subject(call, name), foreign_of({}))
    return Response(status_code=204)


def image_to(name: str, image: Image, kept: Kept) -> wire.Image:
    """An image that is here, by one of its names."""
    config = image.config
    return wire.Image(
        name=name if name.startswith("sha256:") else spelt_out(name), digest=image.id, platform=HOST_PLATFORM,
        status="ready", size_bytes=image.size, entrypoint=list(config.entrypoint) or None, cmd=list(config.cmd) or None,
        env=dict(config.env) or None, working_dir=config.workdir or None, tags=kept.get("tags"),
        created_at=image.created,
    )  # fmt: skip


def pull_to(name: str, pull: Pull, kept: Kept) -> wire.Image:
    """An image that is on its way. Its digest is known once it is here, or was pushed."""
    if pull.error:
        status = "failed"
    elif not pull.text or (pull.digest and not pull.text.startswith(_CONVERTING)):
        status = "pending"
    else:
        status = "converting" if pull.text.startswith(_CONVERTING) else "pulling"
    return wire.Image(
        name=spelt_out(name), digest=pull.digest, platform=HOST_PLATFORM, error=pull.error or None,
        tags=kept.get("tags"), status=status, created_at=pull.began,  # type: ignore[arg-type]  # one of those words
    )  # fmt: skip
