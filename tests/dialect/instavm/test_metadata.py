"""Metadata is kept whole and told again in every list: what could not be is refused."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from dialect.instavm.conftest import Caller, Served
from polyvisor.dialects.instavm.names import DIALECT

pytestmark = pytest.mark.asyncio(loop_scope="session")
DEEP = '{"a":' * 200 + "1" + "}" * 200
KINDS = ["session", "vm"]


async def rows(served: Served) -> Counter[str]:
    """How many there are of each kind."""
    return Counter(row.kind for row in await served.parts.engine.rows.of(DIALECT, KINDS))


async def raw(root: Caller, line: str, text: str) -> httpx.Response:
    """A body as it stands, which no JSON writer would write."""
    method, path = line.split()
    headers = {"X-API-Key": root.key, "Content-Type": "application/json"}
    return await root.http.request(method, path, content=text, headers=headers)


METADATA = [
    '{"a": NaN}', '{"a": 1e999}', '{"a": {"b": ["\\ud800"]}}', '{"a": {"\\ud800": 1}}', DEEP,
    '{"a": "' + "x" * 70_000 + '"}',
]  # fmt: skip


@pytest.mark.parametrize("metadata", METADATA, ids=["nan", "infinite", "surrogate", "key", "deep", "large"])
async def test_metadata_that_could_not_be_told_again_is_refused(root: Caller, served: Served, metadata: str) -> None:
    vm = (await root.vm(metadata={"a": 1}))["vm_id"]
    had = await rows(served)
    for line, more in (
        ("POST /v1/vms", ""), (f"PATCH /v1/vms/{vm}", ""), ("POST /v1/sessions/session", f'"api_key": "{root.key}", '),
    ):  # fmt: skip
        answer = await raw(root, line, f'{{{more}"metadata": {metadata}}}')
        assert answer.status_code == 422, (line, answer.text)
        assert answer.json()["detail"][0]["loc"] == ["body", "metadata"]
        assert root.key not in answer.text
    assert await rows(served) == had
    assert (await root.ok(f"GET /v1/vms/{vm}"))["metadata"] == {"a": 1}
    await root.ok(f"DELETE /v1/vms/{vm}")
