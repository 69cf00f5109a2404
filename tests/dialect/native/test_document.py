"""The published document: of every route, with every refusal, readable without a way out."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from dialect.served import Served
from polyvisor.dialects.native import make_app
from polyvisor.dialects.native.errors import STATUS
from polyvisor.wire import native as wire

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def document(served: Served) -> dict[str, Any]:
    """The document."""
    app: FastAPI = make_app(served.parts.engine)
    return app.openapi()


async def test_it_is_openapi_3_1_and_names_every_route(served: Served, document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    published = {(method, path) for path, item in document["paths"].items() for method in item}
    for method, path in [
        ("get", "/api/v1/instances/{key}/exec"), ("get", "/api/v1/instances/{key}/console"), ("get", "/livez"),
        ("put", "/api/v1/images"), ("get", "/api/v1/events"), ("post", "/api/v1/instances/{key}/reset"),
        ("get", "/api/v1/images/{name}"), ("get", "/metrics"),
    ]:  # fmt: skip
        assert (method, path) in published
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(names)) == len(names)


async def test_every_operation_says_what_it_is_and_how_it_refuses(document: dict[str, Any]) -> None:
    problem = {"$ref": "#/components/schemas/Problem"}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation.get("description"), (method, path)
            if operation.get("security") == []:
                continue
            for status in {str(code) for code in STATUS.values()} | {"413"}:
                answer = operation["responses"][status]
                assert answer["content"]["application/json"]["schema"] == problem, (method, path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in set(re.findall(r"#/components/schemas/(\w+)", str(document))):
        assert name in schemas


async def test_what_is_streamed_is_described(document: dict[str, Any]) -> None:
    for model in (wire.LogRecord, wire.PullProgress, wire.Event, wire.ExecRequest, wire.ExecOrder, wire.ExecResult):
        assert model.__name__ in document["components"]["schemas"]


async def test_the_documentation_page_needs_no_network(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs")).text
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/docs/assets/")
        assert (await http.get(link)).status_code == 200
    assert not re.search(r"https?://", page)
