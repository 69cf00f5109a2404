"""What Schemathesis is told beside the document: which things there are, and what every refusal looks like.

Loaded by it as a module of hooks. Most of what it would make up names nothing, so a part of the cases is given names of
things from `stock`; which part follows from the case alone, so a seed makes the same cases again.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import re
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response, SerializationContext
from schemathesis.core.failures import Failure

from fuzz.stock import BUILDERS, IMAGE, INSTANCES, SOURCE, VOLUMES

_STOCK, _TOLD = Path(os.environ["FUZZ_STOCK"]), Path(os.environ["FUZZ_TOLD"])
_DURATION = re.compile(r"\+?[0-9.]+(ns|us|µs|ms|s|m|h)")
_IMAGES = (IMAGE, "docker.io/library/busybox:latest", "docker.io/library/nothing:latest")
_seen: dict[str, Any] = {"statuses": Counter(), "slowest": [0.0, ""], "undocumented": []}


def _chance(*of: Any) -> int:
    return zlib.crc32(repr(of).encode("utf-8", "backslashreplace"))


def _noted(kind: str) -> list[str]:
    found: list[str] = json.loads(_STOCK.read_text())[kind]
    return found or ["none"]


def _names(parameter: str, path: str) -> list[str]:
    """What there is for a parameter of a path."""
    if path.startswith("/v2/"):
        return {"name": ["fuzz/pushed", "fuzz"], "ref": ["latest", "sha256:" + "0" * 64]}.get(parameter, [])
    if parameter == "name":
        return list(_IMAGES)
    if parameter in ("snapshotId", "snapshot") or path.startswith("/snapshots/"):
        return _noted("snapshots")
    if path.startswith("/builds/"):
        return _noted("builds")
    if path.startswith("/builders/"):
        return list(BUILDERS)
    if parameter in ("volumeId", "volume") or path.startswith("/volumes/"):
        return list(VOLUMES)
    return list(INSTANCES)


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Name things that there are, in most cases, and wait for no longer than is worth it."""
    chance = _chance(case.method, case.path, case.path_parameters, case.query, case.body)
    for parameter in case.path_parameters or {}:
        names = _names(parameter, case.path)
        if names and chance % 10 < 8:
            case.path_parameters[parameter] = names[chance // 10 % len(names)]
    query = case.query if isinstance(case.query, dict) else {}
    if case.path.endswith("/wait") and _DURATION.match(str(query.get("timeout", "60s"))):
        case.query = query = query | {"timeout": ("1ms", "300ms", "0.2s")[chance % 3]}
    if "follow" in query and chance % 20:
        query["follow"] = "false"
    if isinstance(case.body, dict):
        _harmless(case.body, chance)
        if chance // 7 % 3:
            _sensible(case.body, chance)
        if chance // 7 % 3 and isinstance(case.body.get("source"), bytes):
            _buildable(case.body)


def _harmless(body: dict[str, Any], chance: int) -> None:
    """A body that reaches nobody else, and takes no port that somebody may want."""
    if isinstance(body.get("target"), str) and "image" in body:
        body["target"] = "127.0.0.1:9/fuzz/pushed:latest"  # nobody listens there
    for rule in body["rules"] if isinstance(body.get("rules"), list) else ():
        match = rule.get("match") if isinstance(rule, dict) else None
        if isinstance(match, dict):
            match["port"] = 38080 + chance % 3


def _buildable(body: dict[str, Any]) -> None:
    """A form that becomes a build."""
    body["source"] = SOURCE
    for name in ("secrets", "tags", "cache_scope", "global_cache_key", "is_admin_build", "base_image_digest"):
        body.pop(name, None)
    body |= {"builder_id": BUILDERS[0]} if "builder_id" in body else {}
    body |= {"image_name": "fuzz/built:latest"} if "image_name" in body else {}


def _sensible(body: dict[str, Any], chance: int) -> None:
    """A body that gets beyond the first refusal."""
    if isinstance(body.get("image"), str):
        body["image"] = IMAGE
    if isinstance(body.get("size"), str):
        body["size"] = "256MB"
    for name in ("overlay_size", "hotplug_size"):
        if isinstance(body.get(name), str) and chance % 2:
            body[name] = "1GB"
    if isinstance(body.get("vcpus"), int) and chance % 4:
        body["vcpus"] = 1
    if isinstance(body.get("volumes"), list):
        for number, one in enumerate(body["volumes"]):
            if isinstance(one, dict):
                one["volume_id"] = VOLUMES[number % len(VOLUMES)]
                one["mount_path"] = f"/data{number}"


@schemathesis.serializer("application/gzip", "application/octet-stream")
def as_archive(context: SerializationContext, value: Any) -> bytes:
    """Bytes as they are; some of them in an archive, which is one."""
    data: bytes = value if isinstance(value, bytes) else json.dumps(value).encode("utf-8", "replace")
    if _chance(data) % 2:
        return data
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("folder/file")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """The document calls a stream of texts a string. Schemathesis expects each event, as an object, to be one: whether
    its data is one is `told_properly`'s to say. And what asks for a tag names an image that is called so."""
    is_name = case.path.endswith("/tag") and failure.title == "Wrong response to undeclared method"
    return not is_name and failure.title != "SSE event violates schema"


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    """Count."""
    _seen["statuses"][str(response.status_code)] += 1
    if response.elapsed > _seen["slowest"][0]:
        _seen["slowest"] = [response.elapsed, f"{case.method} {response.request.url}"[:300]]


@atexit.register
def _write() -> None:
    """For the one that started us."""
    _TOLD.write_text(json.dumps(_seen))


@schemathesis.check
def told_properly(context: CheckContext, response: Response, case: Case[Any]) -> None:
    """A status that the document has, or a refusal in the shape of one; events of texts, or of objects for builds."""
    if response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        lines = response.content.decode().splitlines()
        texts = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        kind = dict if case.path.startswith("/builds") else str
        assert all(isinstance(text, kind) for text in texts), lines[:3]
    if case.operation.responses.get(str(response.status_code)) or response.status_code == 405:
        return
    where = f"{response.status_code} {case.method} {case.path}"
    if where not in _seen["undocumented"]:
        _seen["undocumented"].append(where)
    if response.status_code == 404 and response.content == b"404 page not found\n":
        return  # the path became another one
    if response.request.method == "HEAD":
        return
    body = json.loads(response.content)
    assert response.status_code >= 400, f"{where} is not in the document"
    assert {"code", "message"} <= set(body) <= {"code", "message", "details", "inner_error"}, body
    assert all(isinstance(body[name], str) and body[name] for name in ("code", "message")), body
