"""The published document: OpenAPI 3.1, made from the rows that answer and from the models that they speak."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from polyvisor.dialects.hypeman import wire
from polyvisor.dialects.hypeman.cp import CpRequest
from polyvisor.dialects.hypeman.encode import without_null
from polyvisor.dialects.hypeman.exec import ExecRequest
from polyvisor.dialects.hypeman.table import Call, Route, Routes

routes = Routes()
API_VERSION = "0.3.0"
_REF = "#/components/schemas/{model}"
_REFUSALS = {400: "Refused", 401: "No valid token", 403: "The token may not", 404: "There is none", 409: "Not now"}
_ALSO = {501: "This cannot be done with what it has"}
_SOCKETS: dict[str, tuple[type[BaseModel], str]] = {
    "exec": (
        ExecRequest,
        "Run a command. Binary messages are its input and output; the last message is its exit code.",
    ),
    "cp": (CpRequest, "Copy files. Binary messages are bytes, text messages say where a file begins and ends."),
}
_SHARED = re.compile(r"polyvisor__dialects__hypeman__(\w+?)__(\w+)")
_rows: list[Route] = []


def describe_rows(rows: Sequence[Route]) -> None:
    """What the document is made from; called once, where all rows are known."""
    _rows[:] = rows
    document.cache_clear()


@lru_cache(1)
def document() -> dict[str, Any]:
    """The document, made once."""
    paths: dict[str, Any] = {}
    for row in _rows:
        path = re.sub(r"\{(\w+):path\}", r"{\1}", row.path)
        paths.setdefault(path, {})[row.method.lower()] = _operation(row, path)
    for name, (model, text) in _SOCKETS.items():
        paths[f"/instances/{{id}}/{name}"] = {"get": _socket(name, model, text)}
    found = {
        "openapi": "3.1.0",
        "info": {"title": "Hypeman API, as polyvisor speaks it", "version": API_VERSION},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"bearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }
    named: dict[str, Any] = json.loads(_SHARED.sub(_unmixed, json.dumps(found)))
    return named


def _unmixed(match: re.Match[str]) -> str:
    """A name that a body and a reply share is the reply's; the body's has `Input` behind it."""
    return match[2] + ("Input" if match[1] == "asks" else "")


def _models(kind: Any) -> list[type[BaseModel]]:
    """The models in a reply's type."""
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    return [kind] if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _schemas() -> dict[str, Any]:
    """Every model that is spoken."""
    known: list[type[BaseModel]] = [wire.Error, *(model for model, _ in _SOCKETS.values())]
    for row in _rows:
        known += [row.body] if row.body is not None else []
        known += _models(row.reply)
    pairs = [(model, "validation") for model in dict.fromkeys(known)]
    _, found = models_json_schema(pairs, ref_template=_REF)  # type: ignore[arg-type]  # the mode is such a literal
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def _operation(row: Route, path: str) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    said: dict[str, Any] = {
        "operationId": "".join(part.title() if i else part for i, part in enumerate(row.name.split("_"))),
        "summary": (row.handler.__doc__ or "").strip().splitlines()[0],
        "parameters": parameters + (_query(row.query) if row.query is not None else []),
        "responses": {str(row.status): _answer(row)} | {str(code): _refusal(text) for code, text in _errors(row)},
    }
    if row.scope is not None:
        said |= {"security": [{"bearerAuth": []}], "x-scope": row.scope}
    if row.body is not None:
        schema = {"$ref": _REF.format(model=row.body.__name__)}
        said["requestBody"] = {"required": not row.optional, "content": {"application/json": {"schema": schema}}}
    if row.form is not None:
        said["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": _form(*row.form)}}}
    return said


def _form(model: type[BaseModel], file: str) -> dict[str, Any]:
    """The fields that it may have, which are texts or numbers, and the file that it has to have."""
    parts: dict[str, Any] = {file: {"type": "string", "format": "binary"}}
    for name, part in model.model_json_schema()["properties"].items():
        parts[name] = {key: value for key, value in part.items() if key not in ("anyOf", "default", "title")}
        parts[name] |= without_null(part["anyOf"]) if "anyOf" in part else {}
    return {"type": "object", "required": [file], "properties": parts}


def _errors(row: Route) -> list[tuple[int, str]]:
    usual = [] if row.scope is None else list(_REFUSALS.items())
    return usual + [(code, _ALSO[code]) for code in row.also]


def _query(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema(ref_template=_REF)
    found = []
    for name, part in schema["properties"].items():
        if part.get("default", "") is None:
            del part["default"]
        if "anyOf" in part:  # what is not given is nothing, and cannot be given as nothing
            part |= without_null(part.pop("anyOf"))
        one = {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": part}
        if name == "tags":
            one |= {"style": "deepObject", "explode": True}
        found.append(one)
    return found


def _answer(row: Route) -> dict[str, Any]:
    models = _models(row.reply)
    if row.reply is None:
        return {"description": "Done"}
    schema: dict[str, Any] = {"type": "object" if row.reply is dict else "string"}
    if models:
        schema = {"$ref": _REF.format(model=models[0].__name__)}
        if get_origin(row.reply) is list:
            schema = {"type": "array", "items": schema}
    return {"description": "Done", "content": {row.media: {"schema": schema}}}


def _refusal(text: str, *, plain: bool = False) -> dict[str, Any]:
    """`plain`: the same JSON as plain text, as exec and cp say it."""
    schema = {"type": "string"} if plain else {"$ref": _REF.format(model="Error")}
    return {"description": text, "content": {"text/plain" if plain else "application/json": {"schema": schema}}}


def _either(text: str) -> dict[str, Any]:
    """Of more than one reason, of which some are told as plain text."""
    content = _refusal(text)["content"] | _refusal(text, plain=True)["content"]
    return {"description": text, "content": content}


def _socket(name: str, model: type[BaseModel], text: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": f"{text} The first message is a {model.__name__} (WebSocket).",
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
        "responses": {"101": {"description": "A WebSocket"}}
        | {str(code): _refusal(why) for code, why in _REFUSALS.items()}
        | {"400": _refusal(_REFUSALS[400], plain=True), "409": _either(_REFUSALS[409])},
        "security": [{"bearerAuth": []}],
        "x-scope": "instance:write",
    }


@routes.add("GET /spec.json", None, 200, dict)
async def spec_json(call: Call) -> Response:
    """This document as JSON."""
    return Response(json.dumps(document()), media_type="application/json")


@routes.add("GET /spec.yaml", None, 200, str, media="application/vnd.oai.openapi")
async def spec_yaml(call: Call) -> Response:
    """This document as YAML, of which JSON is a part."""
    return Response(json.dumps(document(), indent=2) + "\n", media_type="application/vnd.oai.openapi")
