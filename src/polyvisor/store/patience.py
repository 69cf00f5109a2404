"""Waiting for the database to the end, whoever is cancelled meanwhile.

A driver's call that is abandoned half-way goes on behind our back: SQLite's thread still begins the
transaction that nobody will end, and every writer after that waits for it. A commit may or may not have
happened, and those who follow a topic would not hear of it. Single statements are short, so a cancellation
can wait for the present one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Its result; a cancellation is passed on once it is done, in place of what came of it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # counts as seen
    raise cancelled
