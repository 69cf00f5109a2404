"""Threads of the images' own: hashing and unpacking take minutes, and journals and consoles must not wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

THREADS = ThreadPoolExecutor(4, thread_name_prefix="images")
_P = ParamSpec("_P")
_T = TypeVar("_T")


async def in_thread(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What `call` returns, from one of our threads."""
    return await asyncio.get_running_loop().run_in_executor(THREADS, partial(call, *args, **kwargs))
