"""Snapshots: list, read, delete (instavm.md §1.8)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from polyvisor.dialects.instavm import snapshots
from polyvisor.dialects.instavm.door import Caller

router = APIRouter(prefix="/v1/snapshots")


@router.get("")
async def list_all(call: Caller, type: str | None = None) -> list[dict[str, Any]]:
    """All of a type, oldest first."""
    return await snapshots.all_described(call, type)


@router.get("/{snapshot_id}")
async def get(call: Caller, snapshot_id: str) -> dict[str, Any]:
    """One."""
    return await snapshots.described_one(call, snapshot_id)


@router.delete("/{snapshot_id}")
async def delete(call: Caller, snapshot_id: str) -> dict[str, Any]:
    """It is no more; VMs that were made of it stay."""
    found = await snapshots.find(call, snapshot_id)
    await call.core.snapshots.delete(call.principal, found.id)
    return {"id": snapshots.shown(found.id), "status": "deleted"}
