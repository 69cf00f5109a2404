"""Snapshots: make of an image, list, read, delete (instavm.md §1.8)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from polyvisor.dialects.instavm import builds, snapshots
from polyvisor.dialects.instavm.builds import Builds
from polyvisor.dialects.instavm.door import Caller
from polyvisor.dialects.instavm.wire import BuildRequest

router = APIRouter(prefix="/v1/snapshots")


def _builds(request: Request) -> Builds:
    found: Builds = request.app.state.builds
    return found


Making = Annotated[Builds, Depends(_builds)]


@router.post("")
async def create(call: Caller, made: Making, body: BuildRequest) -> dict[str, Any]:
    """A snapshot of an image, which is made while nobody waits."""
    return builds.told(await made.begin(call, body))


@router.get("")
async def list_all(call: Caller, type: str | None = None) -> list[dict[str, Any]]:
    """All of a type, oldest first."""
    return await snapshots.all_described(call, type)


@router.get("/{snapshot_id}")
async def get(call: Caller, snapshot_id: str) -> dict[str, Any]:
    """One."""
    return await snapshots.described_one(call, snapshot_id)


@router.delete("/{snapshot_id}")
async def delete(call: Caller, made: Making, snapshot_id: str) -> dict[str, Any]:
    """It is no more; VMs that were made of it stay."""
    if (build := await builds.find(call, snapshot_id)) is not None:
        await builds.delete(call, made, build)
        return {"id": build.id, "status": "deleted"}
    found = await snapshots.find(call, snapshot_id)
    await call.core.snapshots.delete(call.principal, found.id)
    return {"id": snapshots.shown(found.id), "status": "deleted"}
