"""Images for instances: found here, or fetched, which is waited for as long as upstream does (hypeman.md §1.3)."""

from __future__ import annotations

import asyncio
import platform

from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.names import ours, spelt_out
from polyvisor.dialects.hypeman.table import Call
from polyvisor.engine.images import Pull
from polyvisor.model.faults import NotFound
from polyvisor.model.image import Image

PATIENCE = 5.0
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
HOST_PLATFORM = f"linux/{_ARCHES.get(platform.machine(), platform.machine())}"
_KNOWN = frozenset({"linux/amd64", "linux/arm64"})


def platform_for(asked: str | None) -> str:
    """The platform of an image that is asked for. :raise Refusal: there is none, or this host cannot run it."""
    if asked is None:
        return HOST_PLATFORM
    short = asked.removesuffix("/v8") if asked == "linux/arm64/v8" else asked
    if short not in _KNOWN:
        raise Refusal(400, "invalid_platform", f'invalid platform "{asked}": must be linux/amd64 or linux/arm64')
    if short != HOST_PLATFORM:
        raise Refusal(404, "platform_not_available", f"platform {asked} is not available: {HOST_PLATFORM} is")
    return short


async def find_image(call: Call, asked: str) -> tuple[str, Image]:
    """An image that is here, and what we call it. :raise NotFound: :raise Refusal: the name is none."""
    for name in dict.fromkeys((ours(asked), spelt_out(asked)) if not asked.startswith("sha256:") else (asked,)):
        try:
            return name, await call.core.images.get(call.principal, name)
        except NotFound:
            continue
    raise NotFound(f"image {asked[:120]} not found", subject=asked)


async def begin(call: Call, asked: str) -> tuple[str, Pull]:
    """Fetch an image: by the short name where the operator's registry or we ourselves have it, else spelt out.

    :raise NotFound: nobody has it. :raise Refusal: the name is none.
    """
    if asked.startswith("sha256:"):
        raise NotFound(f"image {asked[:120]} not found", subject=asked)
    refused = NotFound(f"image {asked[:120]} not found", subject=asked)
    for name in dict.fromkeys((ours(asked), spelt_out(asked))):
        try:
            return name, await call.core.images.pull(call.principal, name)
        except NotFound as fault:
            refused = fault
    raise refused


async def image_for(call: Call, asked: str) -> tuple[str, Image]:
    """The image of a new instance, and what we call it. :raise Refusal: it is not here yet. :raise Fault:"""
    try:
        return await find_image(call, asked)
    except NotFound:
        name, pull = await begin(call, asked)
    done, _ = await asyncio.wait({pull.task}, timeout=PATIENCE)
    if not done:
        raise Refusal(400, "image_not_ready", f"image {asked} is being pulled, please try again shortly")
    return name, pull.task.result()
