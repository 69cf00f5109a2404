"""Templates, over HTTP."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from polyvisor.dialects.native.auth import Caller, Core
from polyvisor.dialects.native.params import Key
from polyvisor.dialects.native.translate import template_of, template_to
from polyvisor.wire import native as wire

router = APIRouter(prefix="/templates", tags=["templates"])


@router.post("", status_code=201)
async def create_template(body: wire.CreateTemplate, caller: Caller, core: Core) -> wire.Template:
    """Boot a machine of this image and size once and keep its memory: instances that ask for the same are copies of it.

    Answered when it is ready, some seconds later; it is made to its end if the caller leaves.
    """
    return template_to(await core.templates.create(caller, template_of(body), shared=body.shared, code=body.code))


@router.get("")
async def list_templates(caller: Caller, core: Core) -> wire.TemplateList:
    """The templates that the caller's instances may be made of, oldest first."""
    return wire.TemplateList(items=[template_to(t) for t in await core.templates.list(caller)])


@router.delete("/{key}", status_code=204)
async def delete_template(key: Key, caller: Caller, core: Core) -> Response:
    """Delete a template, by id or name. Instances that were made of it stay."""
    await core.templates.delete(caller, key)
    return Response(status_code=204)
