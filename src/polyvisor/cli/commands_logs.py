"""logs: what a workload said, and what its hypervisor said."""

from __future__ import annotations

import base64
from collections import deque
from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import show
from polyvisor.cli.options import Json, Name
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import LogRecord

_CHANNEL = {"stdout": 1, "stderr": 2}
Follow = Annotated[bool, typer.Option("-f", "--follow", help="Go on until it has ended for good.")]
Tail = Annotated[int | None, typer.Option("--tail", "-n", min=0, help="Begin with the last so many lines.")]


def logs(
    name: Name,
    follow: Follow = False,
    tail: Tail = None,
    vmm: Annotated[bool, typer.Option("--vmm", help="The hypervisor's own words instead.")] = False,
    as_json: Json = False,
) -> None:
    """The workload's output: its stdout to stdout, its stderr to stderr."""
    if vmm and (follow or as_json or tail is not None):
        raise typer.BadParameter("the hypervisor's log is shown as it is", param_hint="--vmm")

    async def work(client: Client) -> None:
        if vmm:
            async for chunk in client.instances.vmm_log(name):
                show.raw(1, chunk)
            return
        seen = 0
        if tail is not None and not as_json:
            seen = await _show_last(client, name, tail)
        elif tail is not None:
            records = [record async for record in client.instances.logs(name)]
            seen = max(0, len(records) - tail)
        if follow or tail is None or as_json:
            await stream(client, name, follow=follow, skip=seen, as_json=as_json)

    talk(work, as_json=as_json)


async def stream(client: Client, name: str, *, follow: bool, skip: int = 0, as_json: bool = False) -> None:
    """Show the records behind the first `skip`."""
    async for record in client.instances.logs(name, follow=follow):
        if skip > 0:
            skip -= 1
        elif as_json:
            show.document(record)
        elif record.stream in _CHANNEL:
            show.raw(_CHANNEL[record.stream], base64.b64decode(record.data))


async def _show_last(client: Client, name: str, count: int) -> int:
    """Show the last `count` lines of what there is; how many records that was. Records end where they like, so lines
    are put together first."""
    seen = 0
    lines: deque[tuple[int, bytes]] = deque(maxlen=count)
    rest = {1: b"", 2: b""}
    async for record in client.instances.logs(name):
        seen += 1
        channel = _channel(record)
        if channel:
            whole, newline, rest[channel] = (rest[channel] + base64.b64decode(record.data)).rpartition(b"\n")
            lines.extend((channel, line + b"\n") for line in whole.split(b"\n") if newline)
    lines.extend((channel, data) for channel, data in rest.items() if data)
    for channel, line in lines:
        show.raw(channel, line)
    return seen


def _channel(record: LogRecord) -> int:
    return _CHANNEL.get(record.stream, 0)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(logs)
