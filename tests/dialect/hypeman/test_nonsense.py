"""Nonsense at every route: it is refused in the dialect's words, never with an error of ours, and makes nothing."""

from __future__ import annotations

import json
import random
from typing import Any, get_args

import httpx
import pytest
from pydantic import BaseModel

from dialect.hypeman.making import make
from polyvisor.dialects.hypeman.app import ROWS
from polyvisor.dialects.hypeman.table import Route

pytestmark = pytest.mark.asyncio(loop_scope="session")

ODD: list[Any] = [
    None, True, 0, -1, 1.5, 2**63, 10**30, "", "x", "-", "0s", "1h", "1GB", "\0", "\ud800", "ü" * 300, "../..", "/",
    "a" * 5000, [], ["x"], [None], {}, {"x": "y"}, {"": ""}, [[]], {"enabled": True}, "2030-01-01T00:00:00Z",
    "Running", "qemu",
]  # fmt: skip
LIMIT = 40  # bodies for each route


def bodies(model: type[BaseModel], chance: random.Random) -> list[Any]:
    """Bodies of which each is odd in one place or more."""
    names = list(model.model_fields)
    usual: dict[str, Any] = {"name": "n" + str(chance.randrange(10**9)), "image": "busybox", "kind": "Standby"}
    usual |= {"interval": "1h", "retention": {"max_count": 1}, "target": "x:1", "size_gb": 1, "mount_path": "/d"}
    good = {name: usual[name] for name in names if name in usual}
    found: list[Any] = [good, *ODD]
    for name in names:
        found += [good | {name: odd} for odd in chance.sample(ODD, 4)]
    return [*found[:10], *chance.sample(found, min(LIMIT, len(found)))]


async def never_ours(http: httpx.AsyncClient, row: Route, path: str, **how: Any) -> None:
    """The answer is no error of ours, and is written as it should be."""
    answer = await http.request(row.method, path, **how)
    told = (row.method, path[:200], str(how)[:300], answer.status_code, answer.text[:300])
    assert answer.status_code < 500 or answer.status_code == 501, told
    if answer.status_code >= 400 and answer.content and not answer.headers["content-type"].startswith("text/plain"):
        assert set(answer.json()) == {"code", "message"}, told
        assert answer.json()["message"], told


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
async def test_nonsense_is_refused(http: httpx.AsyncClient, sdk: Any, row: Route) -> None:
    chance = random.Random(f"{row.method} {row.path}")
    made = await make(sdk)
    for key in (made.id, made.name, "nothing", "%00", "%2e%2e", "%F0%9F%92%A9", "x" * 300, "'\"<>&"):
        path = row.path.replace("{id}", key).replace("{name:path}", key)
        path = path.replace("{snapshot}", key).replace("{volume}", key)
        if row.method == "DELETE" and key != "nothing":
            continue
        await never_ours(http, row, path)
        if row.body is not None and key in (made.id, "nothing"):
            for body in bodies(row.body, chance):
                text = json.dumps(body).encode()
                await never_ours(http, row, path, content=text, headers={"Content-Type": "application/json"})
        if row.query is not None and key in (made.id, "nothing"):
            for name, field in row.query.model_fields.items():
                if name == "follow":
                    continue  # that answer has no end
                for odd in ("", "x", "-1", "\ud7ff", "true", "1" * 400, "Running", "/", "0s", "1ms"):
                    if not get_args(field.annotation) or "dict" not in str(field.annotation):
                        await never_ours(http, row, path, params={name: odd})
                    await never_ours(http, row, path, params={f"{name}[{odd[:20]}]": odd})


@pytest.mark.parametrize(
    "path", ["/images/%0Ax", "/images/x%0A", "/images/a%0Ab/tag", "/v2/a%0Ab/manifests/x", "/v2/%0A"]
)
async def test_a_line_break_in_a_path_is_a_part_of_it(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code in (400, 404, 405)
    assert set(answer.json()) in ({"code", "message"}, {"errors"})
