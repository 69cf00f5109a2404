"""The published document: whole, valid in itself, and true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import httpx
import hypeman.types
import pytest
from hypeman.types import instance, instances, shared
from pydantic import BaseModel

from polyvisor.dialects.hypeman.app import ROWS

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_it_is_published_without_a_token(http: httpx.AsyncClient) -> None:
    plain = await http.get("/spec.json", headers={"Authorization": ""})
    same = await http.get("/spec.yaml", headers={"Authorization": ""})
    assert (plain.headers["content-type"], same.headers["content-type"]) == (
        "application/json", "application/vnd.oai.openapi",
    )  # fmt: skip
    assert plain.json() == json.loads(same.text)


async def test_it_describes_every_route_and_nothing_else(http: httpx.AsyncClient) -> None:
    document = (await http.get("/spec.json")).json()
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    rows = {(row.method, row.path.replace(":path", "")) for row in ROWS}
    assert told == rows | {("GET", "/instances/{id}/exec"), ("GET", "/instances/{id}/cp")}
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(names)) == len(names)


async def test_every_reference_leads_somewhere(http: httpx.AsyncClient) -> None:
    text = (await http.get("/spec.json")).text
    document = json.loads(text)
    wanted = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert wanted <= set(document["components"]["schemas"])
    assert "polyvisor__" not in text


SDK_NAMES = {"Health": "HealthCheckResponse", "InstanceNetwork": "Network"}  # ours -> upstream's client's


def model_of(name: str) -> type[BaseModel] | None:
    """What upstream's client makes of a reply."""
    for module in (hypeman.types, shared, instance, instances):
        found = getattr(module, SDK_NAMES.get(name, name), None)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None


def nested_in(model: type[BaseModel]) -> set[str]:
    """The fields of a model and their aliases."""
    return {field.alias or name for name, field in model.model_fields.items()}


async def test_every_reply_has_the_fields_that_the_sdk_knows_and_no_others(http: httpx.AsyncClient) -> None:
    schemas = (await http.get("/spec.json")).json()["components"]["schemas"]
    compared, lacking = 0, set()
    for name, schema in schemas.items():
        model = model_of(name)
        if model is None or schema.get("additionalProperties") is not False:
            continue  # a body: what is asked and not known is ignored
        compared += 1
        ours, theirs = set(schema["properties"]), nested_in(model)
        assert ours <= theirs, (name, ours - theirs)
        lacking |= {f"{name}.{field}" for field in theirs - ours}
        needed = {field.alias or key for key, field in model.model_fields.items() if field.is_required()}
        optional = {
            field.alias or key for key, field in model.model_fields.items() if type(None) in get_args(field.annotation)
        }
        assert needed - optional <= set(schema.get("required", ())), name
    assert compared >= 25
    absent = {"Instance.gpu", "Resources.disk_breakdown", "Resources.disk_io", "BuildProvenance.buildkit_version"}
    assert lacking == absent  # this host has none of them


async def test_every_method_of_the_sdk_has_its_operation(http: httpx.AsyncClient) -> None:
    document = (await http.get("/spec.json")).json()
    told = {(method, re.sub(r"\{\w+\}", "{}", path)) for path, item in document["paths"].items() for method in item}
    source = Path(hypeman.__file__).parent / "resources"
    call = re.compile(r'self\._(get|post|put|patch|delete)\(\s*(?:path_template\()?f?"([^"]+)"')
    found = {
        (method, re.sub(r"\{\w+[^}]*\}", "{}", path))
        for file in source.rglob("*.py")
        for method, path in call.findall(file.read_text())
    }
    assert len(found) > 55
    assert found <= told, found - told
