"""One command's conversation with the server: from settings to an exit code, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import typer

from polyvisor.cli import settings, show

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Instance

INTERRUPTED = 130
NOBODY_READS = 141
OURS = 125  # of a command that runs another one: the failure is ours, not that one's


def talk(work: Callable[[Client], Awaitable[int | None]], *, as_json: bool = False, failure: int = 1) -> None:
    """Do `work` and leave with the exit code that it returns; with `failure` when something is refused."""
    from pydantic import ValidationError

    from polyvisor.client import Refused
    from polyvisor.wire.native import Problem

    try:
        code = asyncio.run(_with_client(work))
    except Refused as refusal:
        show.complain(refusal.problem, as_json)
        code = failure
    except settings.Unset as error:
        show.complain(Problem(kind="Unauthenticated", message=str(error)), as_json)
        code = failure
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        show.complain(Problem(kind="Invalid", message=f"{field}: {first['msg']}", field=field), as_json)
        code = failure
    except BrokenPipeError:
        show.hush()
        code = NOBODY_READS
    except KeyboardInterrupt:
        code = INTERRUPTED
    raise typer.Exit(code or 0)


async def _with_client(work: Callable[[Client], Awaitable[int | None]]) -> int | None:
    from polyvisor.client import Client

    found = settings.load()
    async with Client(found.url, found.key, ca_file=found.ca_file, project=found.project) as client:
        return await work(client)


def each(names: Sequence[str], verb: Callable[[Client, str], Awaitable[Instance]], as_json: bool) -> None:
    """A verb on every name, side by side: a line for each that obeyed, an error for each that did not (exit 1)."""

    async def work(client: Client) -> int:
        return await all_of(client, names, verb, as_json)

    talk(work, as_json=as_json)


async def all_of(
    client: Client, names: Sequence[str], verb: Callable[[Client, str], Awaitable[Instance]], as_json: bool
) -> int:
    """As `each`, within a conversation."""
    from polyvisor.client import Refused

    failed = 0
    answers = await asyncio.gather(*(verb(client, name) for name in names), return_exceptions=True)
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Refused):
            show.complain(answer.problem, as_json)
            failed = 1
        elif isinstance(answer, BaseException):
            raise answer
        elif as_json:
            show.document(answer)
        else:
            show.say(name)
    return failed


def status_of(instance: Instance) -> int:
    """What a shell would call the end of its last run: the workload's code, 128 + a signal, 137 when the power was cut,
    125 when it failed for a reason of ours. A machine without a command was simply stopped: 0."""
    ended = instance.exit
    if ended is None:
        return OURS if instance.error else 0
    if ended.code is not None:
        return ended.code
    if ended.signal is not None:
        return 128 + ended.signal
    cut = 137 if instance.command else 0
    return {"stopped": cut, "crashed": OURS}.get(ended.reason, 0)
