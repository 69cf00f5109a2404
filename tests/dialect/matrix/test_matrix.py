"""What is made through one API is seen and driven through every other one, and all of them always say the same."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import pytest

from dialect.matrix.conftest import Faces
from dialect.matrix.faces import APIS, OK, Api, Native
from dialect.served import Served
from polyvisor.dialects.hanzo import states as hanzo
from polyvisor.dialects.hypeman import states as hypeman
from polyvisor.dialects.instavm import states as instavm
from polyvisor.dialects.velocity import states as velocity
from polyvisor.dialects.vergeos.sources import STATUSES
from polyvisor.model.face import Face, face
from polyvisor.model.principal import SYSTEM

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAMES = [kind.__name__.lower() for kind in APIS]
LIMIT = 30.0
OPERATIONS = int(os.environ.get("MATRIX_OPERATIONS", "600"))
ROUNDS = 12
MOST = 14


async def until(
    ask: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool], what: str, limit: float = LIMIT
) -> Any:
    """What `ask` gives, once that is as it is wanted."""
    found = None
    try:
        async with asyncio.timeout(limit):
            while not wanted(found := await ask()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what}: {found}") from None
    return found


async def rest(faces: Faces, limit: float = LIMIT) -> None:
    """Until nothing is under way."""
    await until(cast(Native, faces["native"]).settled, bool, "it does not come to rest", limit)


async def is_said(api: Api, id: str, words: frozenset[str], limit: float = LIMIT) -> None:
    """Until the API has one of these words for the machine."""
    what = f"{type(api).__name__} does not say one of {words}"
    await until(lambda: api.word(id), lambda word: word in words, what, limit)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(NAMES, NAMES)))
async def test_made_through_one_and_driven_through_another(faces: Faces, a: str, b: str) -> None:
    await drive(faces, a, b)


async def drive(faces: Faces, a: str, b: str, limit: float = LIMIT) -> None:
    """A machine's life: made by `a`, switched and ended by `b`, and the same to both all the while."""
    first, second = faces[a], faces[b]
    id = await first.make()
    await rest(faces, limit)
    if await first.word(id) in first.off:
        assert (await first.switch(id, on=True)).status_code in OK
    await is_said(second, id, second.on, limit)
    await rest(faces, limit)
    for on in (False, True):
        answer = await second.switch(id, on=on)
        assert answer.status_code in OK, answer.text
        for api in (second, first):
            await is_said(api, id, api.on if on else api.off, limit)
        await rest(faces, limit)
    await end(faces, second, id, limit)
    await until(lambda: first.word(id), lambda word: word is None, f"{a} sees it still", limit)
    assert id not in await first.words()


async def end(faces: Faces, api: Api, id: str, limit: float = LIMIT) -> None:
    """Gone through that API: those that delete only what is off are told to switch it off first."""
    if (await api.delete(id)).status_code not in OK:
        assert (await api.switch(id, on=False)).status_code in OK
        await is_said(api, id, api.off, limit)
        await rest(faces, limit)
        answer = await api.delete(id)
        assert answer.status_code in OK, answer.text


def _words(now: Face) -> Mapping[str, str]:
    """What each API has to say of it, by its own table."""
    return {
        "native": now.value, "hypeman": hypeman.WORDS[now], "instavm": instavm.WORDS[now], "hanzo": hanzo.WORDS[now],
        "velocity": velocity.WORDS[now], "vergeos": STATUSES[now][0],
    }  # fmt: skip


async def act(api: Api, dice: random.Random, times: int, made: set[str], gone: set[str]) -> None:
    """Some things that one API does to machines of all."""
    for _ in range(times):
        known, what = sorted(made - gone), dice.random()
        if not known or (what < 0.15 and len(known) < MOST):
            made.add(await api.make())
        elif what < 0.25:
            id = dice.choice(known)
            if (await api.delete(id)).status_code in OK:
                gone.add(id)
        elif what < 0.75:
            await api.switch(dice.choice(known), on=dice.random() < 0.5)
        elif what < 0.9:
            await api.word(dice.choice(known))
        else:
            await api.words()


async def test_all_at_once_and_none_contradicts_another(faces: Faces, served: Served) -> None:
    """Each API does what it likes with the same machines; whenever they rest, all must say what is so."""
    seed, made, gone = random.randrange(2**32), set[str](), set[str]()
    times = max(1, OPERATIONS // (ROUNDS * len(faces)))
    try:
        for number in range(ROUNDS):
            dice = [random.Random(f"{seed} {number} {name}") for name in faces]
            actors = zip(faces.values(), dice, strict=True)
            await asyncio.gather(*(act(api, one, times, made, gone) for api, one in actors))
            await until(lambda: _agree(faces, served, made - gone), lambda wrong: not wrong, "they do not agree")
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    for id in made - gone:
        await end(faces, faces["native"], id)


async def _agree(faces: Faces, served: Served, there: set[str]) -> list[str]:
    """What is wrong with what they say, once nothing is under way."""
    await rest(faces)
    told = {name: await api.words() for name, api in faces.items()}
    wrong = []
    for id in there:
        instance = await served.parts.engine.instances.get(SYSTEM, id)
        if not instance.settled or instance.operation is not None:
            return ["it moves"]
        wanted = _words(face(instance))
        if not instance.observed.ready and face(instance) is Face.RUNNING and not instance.spec.blank:
            return ["it comes up"]
        wrong += [f"{id} is {told[n].get(id)} to {n}, not {w}" for n, w in wanted.items() if told[n].get(id) != w]
    for name, words in told.items():
        wrong += [f"{id} is no more, but not to {name}" for id in words if id not in there]
    return wrong
