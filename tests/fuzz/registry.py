"""A document of `/v2`, which the server's own leaves to the distribution specification. For the fuzzer only."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_DIGEST = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
_REFUSALS = {
    str(status): {
        "description": "Refused",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["errors"],
                    "properties": {
                        "errors": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["code", "message"],
                                "properties": {"code": _TEXT, "message": _TEXT},
                            },
                        }
                    },
                }
            }
        },
    }
    for status in (400, 401, 403, 404, 405, 409, 413, 416, 429)
}


def _does(success: int, *parameters: tuple[str, str, dict[str, Any]], media: str = "") -> dict[str, Any]:
    said: dict[str, Any] = {
        "parameters": [
            {"name": name, "in": place, "required": place == "path", "schema": schema}
            for name, place, schema in parameters
        ],
        "responses": {str(success): {"description": "Done"}} | _REFUSALS,
        "security": [{"bearer": []}],
    }
    if media:
        schema = {"type": "string", "format": "binary"} if media == "application/octet-stream" else {"type": "object"}
        said["requestBody"] = {"content": {media: {"schema": schema}}}
    return said


_NAME = ("name", "path", {"type": "string", "pattern": "^[a-z0-9]+([._-][a-z0-9]+)*$"})
_ID, _REF = ("id", "path", _TEXT), ("ref", "path", _TEXT)
_PART, _PARTS = ("digest", "path", _DIGEST), "application/octet-stream"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pushes", "version": "2"},
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/v2/": {"get": _does(200)},
            "/v2/token": {"get": _does(200, ("scope", "query", _TEXT), ("service", "query", _TEXT))},
            "/v2/{name}/blobs/uploads/": {
                "post": _does(202, _NAME, ("digest", "query", _DIGEST), ("mount", "query", _DIGEST), media=_PARTS)
            },
            "/v2/{name}/blobs/uploads/{id}": {
                "get": _does(204, _NAME, _ID),
                "patch": _does(202, _NAME, _ID, ("Content-Range", "header", _TEXT), media=_PARTS),
                "put": _does(201, _NAME, _ID, ("digest", "query", _DIGEST), media=_PARTS),
                "delete": _does(204, _NAME, _ID),
            },
            "/v2/{name}/blobs/{digest}": {"get": _does(200, _NAME, _PART), "head": _does(200, _NAME, _PART)},
            "/v2/{name}/manifests/{ref}": {
                "get": _does(200, _NAME, _REF),
                "head": _does(200, _NAME, _REF),
                "put": _does(201, _NAME, _REF, media=_MANIFEST),
            },
        },
    }
