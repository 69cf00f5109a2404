"""Getting an image onto the host, with its progress shown to whoever watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from polyvisor.cli import show

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Image


async def ensure(client: Client, name: str) -> Image:
    """The image, fetched if it is not there."""
    from polyvisor.client import Refused

    try:
        return await client.images.get(name)
    except Refused as refusal:
        if refusal.kind != "NotFound":
            raise
    return await pull(client, name)


async def pull(client: Client, name: str) -> Image:
    """Fetch it. :raise Refused:"""
    from polyvisor.client.errors import unreachable

    with _progress(name) as tell:
        async for said in client.images.pull(name):
            if said.image is not None:
                return said.image
            tell(said.text, said.fraction)
    raise unreachable("the image did not come")


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[str, float | None], None]]:
    """A bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda text, fraction: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(show.plain(name)), total=None)

        def tell(text: str, fraction: float | None) -> None:
            words = escape(show.plain(f"{name}: {text}"))
            bar.update(task, description=words, total=None if fraction is None else 1.0, completed=fraction or 0.0)

        yield tell
