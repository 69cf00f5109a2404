"""The published document: OpenAPI 3.1 of every route, with what the framework does not see by itself: credentials,
the streams' records, and the WebSockets."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from polyvisor.dialects.native.auth import PREFIX, is_guarded
from polyvisor.dialects.native.errors import kinds
from polyvisor.wire import native as wire

_SCHEMA = "#/components/schemas/{model}"
_UNSEEN: tuple[type[BaseModel], ...] = (
    wire.Problem, wire.LogRecord, wire.PullProgress, wire.Event, wire.ExecRequest, wire.ExecOrder, wire.ExecResult,
)  # fmt: skip
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {"type": "http", "scheme": "basic"},
}
_SOCKETS = {
    "instances/{key}/exec": (
        "Run a command (WebSocket)",
        "The first message is an `ExecRequest` as text. Then binary messages carry a channel byte and data (0 stdin, "
        "1 stdout, 2 stderr), text to the server is an `ExecOrder`, and the last text from it an `ExecResult` or a "
        "`Problem`.",
    ),
    "screens/{ticket}": (
        "A screen (WebSocket)",
        "RFB both ways, as VNC has it, in binary messages. The ticket is the credential, and opens this once. The "
        "subprotocol may be `binary`.",
    ),
    "instances/{key}/console": (
        "The serial console (WebSocket)",
        "Binary messages both ways: first all that it said so far.",
    ),
}


def streamed(media: str, model: str = "") -> dict[int | str, dict[str, Any]]:
    """What a route says of its answer when that is a stream, of records or of bytes."""
    schema = {"$ref": _SCHEMA.format(model=model)} if model else {"type": "string", "format": "binary"}
    return {200: {"description": "A stream", "content": {media: {"schema": schema}}}}


def pictured(media: str) -> dict[int | str, dict[str, Any]]:
    """What a route says of its answer when that is a picture."""
    return {200: {"description": "A picture", "content": {media: {"schema": {"type": "string", "format": "binary"}}}}}


def uploaded(media: str) -> dict[str, Any]:
    """What a route says of its body when that is a stream of bytes."""
    content = {media: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
        document["components"]["securitySchemes"] = _SCHEMES
        document["security"] = [{name: []} for name in _SCHEMES]
        _add_schemas(document["components"]["schemas"])
        for name, (summary, text) in _SOCKETS.items():
            document["paths"][f"{PREFIX}/{name}"] = {"get": _socket(name, summary, text)}
        for path, item in document["paths"].items():
            for operation in item.values():
                if path.startswith(PREFIX) or is_guarded(path):
                    operation["responses"].update(_refusals())
                if not is_guarded(path):
                    operation["security"] = []
        app.openapi_schema = document
    return app.openapi_schema


def _refusals() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _SCHEMA.format(model="Problem")}}}
    return {str(status): {"description": text, "content": content} for status, text in kinds().items()}


def _add_schemas(schemas: dict[str, Any]) -> None:
    """Ours in, and out with the framework's own word on what is invalid, which we do not use."""
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in _UNSEEN:
        schema = model.model_json_schema(ref_template=_SCHEMA)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema


def _socket(path: str, summary: str, text: str) -> dict[str, Any]:
    words = path.split("/")
    named = next(word.strip("{}") for word in words if word.startswith("{"))
    return {
        "tags": ["streams"],
        "summary": summary,
        "description": text,
        "operationId": words[-1] if not words[-1].startswith("{") else words[0],
        "parameters": [{"name": named, "in": "path", "required": True, "schema": {"type": "string"}}],
        "responses": {"101": {"description": "The protocol changes to WebSocket"}},
    }
