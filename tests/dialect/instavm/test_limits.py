"""How large a body may be, and of whom (instavm.md §1.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dialect.instavm.conftest import Caller
from polyvisor.dialects.instavm.limits import CODE_LIMIT, JSON_LIMIT
from polyvisor.model.units import MIB

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def pieces(size: int) -> AsyncIterator[bytes]:
    """As many bytes, whose number is not announced."""
    for _ in range(0, size, MIB):
        yield b" " * MIB


@pytest.mark.parametrize("path", ["/v1/vms", "/v1/sessions/session", "/v1/snapshots", "/kill"])
async def test_json_that_is_too_large_is_not_read(root: Caller, path: str) -> None:
    announced = await root.http.post(path, content=b" " * (JSON_LIMIT + 1))
    assert announced.status_code == 413
    assert "larger" in announced.json()["detail"]
    answer = await root.http.post(path, content=pieces(JSON_LIMIT + 2 * MIB))
    assert (answer.status_code, "larger" in answer.json()["detail"]) == (413, True)


async def test_a_large_file_is_taken_of_who_has_shown_a_key(root: Caller, served: object) -> None:
    head = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(CODE_LIMIT + 1)}
    for path in ("/upload", "/v1/volumes/vol_x/files/upload"):
        nobody = await root.http.post(path, content=b"", headers=head | {"Content-Length": "0"})
        assert nobody.status_code in (401, 422)
        wrong = await root.http.post(path, content=b"", headers={"X-API-Key": "wrong"})
        assert wrong.status_code == 401
        assert set(wrong.json()) == {"detail"}


async def test_a_form_that_is_none_is_not_called_json(root: Caller) -> None:
    headers = {"X-API-Key": root.key, "Content-Type": "multipart/form-data; boundary=x"}
    answer = await root.http.post("/upload", content=b"junk", headers=headers)
    (told,) = answer.json()["detail"]
    assert (answer.status_code, told["loc"], told["type"]) == (422, ["body"], "form_invalid")
