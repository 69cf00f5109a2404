"""JSON as Go's encoder writes it (hypeman.md §1.1): keys in alphabetical order, no spaces, `<>&` escaped.

A field that may be null is always there; any other optional field is left out when it has no value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from starlette.responses import Response

JSON = "application/json"
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class Reply(BaseModel):
    """What this dialect says. `nullable` are the fields that are said as null when there is nothing to say."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    nullable: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The document says the same: null where it is said, and whatever is always there as required."""
        found = handler.resolve_ref_schema(handler(core))
        parts = found.get("properties", {})
        for name, part in parts.items():
            is_optional = {"type": "null"} in part.get("anyOf", ())
            part.pop("default", None)
            if is_optional and name not in cls.nullable:
                part |= without_null(part.pop("anyOf"))
            elif not is_optional or name in cls.nullable:
                found["required"] = sorted({*found.get("required", ()), name})
        return found


def without_null(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """What it may be beside null, which for every field of ours is one thing."""
    (only,) = (choice for choice in choices if choice != {"type": "null"})
    return only


def text_of(value: object) -> str:
    """The JSON text, without a newline."""
    plain = _plain(value)
    return json.dumps(plain, separators=(",", ":"), sort_keys=True, ensure_ascii=False).translate(_ESCAPES)


def _plain(value: Any) -> Any:
    if isinstance(value, Reply):
        said = value.__dict__
        shown = _shown(type(value))
        return {name: _plain(said[name]) for name, always in shown if always or said[name] is not None}
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return moment_text(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value


@cache
def _shown(kind: type[Reply]) -> tuple[tuple[str, bool], ...]:
    """Its fields in order, and which of them are said as null."""
    return tuple((name, name in kind.nullable) for name in sorted(kind.model_fields))


def moment_text(moment: datetime) -> str:
    """RFC 3339 with as many fractional digits as there are."""
    text = moment.astimezone(UTC).isoformat().removesuffix("+00:00")
    return f"{text.rstrip('0') if moment.microsecond else text}Z"


def said(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of a handler: JSON and a newline."""
    body = (text_of(value) + "\n").encode("utf-8", "replace")
    return Response(body, status, dict(headers or {}), media_type=JSON)


def said_bare(value: object, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of what stands before the handlers: JSON without a newline."""
    return Response(text_of(value).encode("utf-8", "replace"), status, dict(headers or {}), media_type=JSON)
