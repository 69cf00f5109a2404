"""Requests against their schema, refused in the words of upstream's validator and always naming the place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
_DEEP = re.compile(r"(\w+)\[([^\]]*)\]")
_TYPES = {
    "string_type": "value must be a string",
    "int_type": "value must be an integer",
    "int_from_float": "value must be an integer",
    "int_parsing": "value must be an integer",
    "bool_type": "value must be a boolean",
    "bool_parsing": "value must be a boolean",
    "list_type": "value must be an array",
    "dict_type": "value must be an object",
    "model_type": "value must be an object",
    "model_attributes_type": "value must be an object",
}


class Refused(Exception):
    """A request that is none; the message is what the caller is told."""


def body_of(model: type[M], data: bytes, content_type: str, *, required: bool) -> M:
    """The body. An empty one is refused, or is `{}` where none is required. :raise Refused:"""
    if not data:
        if required:
            raise Refused("request body has an error: value is required but missing")
        data = b"{}"
    elif content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(f'request body has an error: header Content-Type has unexpected value "{content_type}"')
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise Refused(_body_text(model, error)) from error
    except (ValueError, RecursionError) as error:
        raise Refused(f"request body has an error: failed to decode request body: {error}") from error


def _body_text(model: type[BaseModel], error: ValidationError) -> str:
    first: Mapping[str, Any] = dict(error.errors(include_url=False)[0])
    if first["type"] == "json_invalid":
        return f"request body has an error: failed to decode request body: {first['ctx']['error']}"
    place = [str(part) for part in first["loc"] if part != "[key]"]
    schema = f"doesn't match schema #/components/schemas/{model.__name__}"
    why = f'property "{place[-1]}" is missing' if first["type"] == "missing" else reason(first)
    where = f'Error at "/{"/".join(place)}": ' if place else ""
    return f"request body has an error: {schema}: {where}{why}"


def reason(error: Mapping[str, Any]) -> str:
    """Upstream's words for what is wrong with a value."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind == "literal_error":
        allowed = json.dumps(re.findall(r"'([^']*)'", context["expected"]), separators=(",", ":"))
        return f"value is not one of the allowed values {allowed}"
    templates = {
        "string_pattern_mismatch": 'string doesn\'t match the regular expression "{pattern}"',
        "string_too_long": "maximum string length is {max_length}",
        "string_too_short": "minimum string length is {min_length}",
        "greater_than_equal": "number must be at least {ge}",
        "less_than_equal": "number must be at most {le}",
        "missing": "value is required but missing",
    }
    if kind in templates:
        return templates[kind].format(**context)
    if kind == "too_long":
        things = "properties" if context.get("field_type") == "Dictionary" else "items"
        return f"there must be at most {context['max_length']} {things}"
    if kind == "too_short":
        things = "properties" if context.get("field_type") == "Dictionary" else "items"
        return f"there must be at least {context['min_length']} {things}"
    return str(error["msg"])


def query_of(model: type[M], items: list[tuple[str, str]]) -> M:
    """The parameters; `tags[key]=value` may come many times. Unknown ones are ignored. :raise Refused:"""
    found: dict[str, Any] = {}
    for name, value in items:
        deep = _DEEP.fullmatch(name)
        if deep is not None and deep[1] in model.model_fields:
            found.setdefault(deep[1], {})[deep[2]] = value
        elif name in model.model_fields and not _is_map(model, name):
            found.setdefault(name, value)
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first: Mapping[str, Any] = dict(error.errors(include_url=False)[0])
        name = first["loc"][0]
        raise Refused(f'parameter "{name}" in query has an error: {reason(first)}') from error


def _is_map(model: type[BaseModel], name: str) -> bool:
    """Whether it is a map, which plain `name=value` says nothing of."""
    kinds = get_args(model.model_fields[name].annotation)
    return any("dict[" in str(kind) for kind in kinds)
