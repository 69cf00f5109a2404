"""The protocol of `/v2`, request by request, and what is refused of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman

from dialect.hypeman.making import make
from dialect.hypeman.test_door import signed
from dialect.served import Served, fresh
from polyvisor.engine import registry
from polyvisor.host.images.documents import architecture

pytestmark = pytest.mark.asyncio(loop_scope="session")
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
NOBODY = {"Authorization": ""}


def sha(data: bytes) -> str:
    """A digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def about(arch: str = architecture()) -> bytes:
    """The config of an image with one layer that is like no other test's."""
    diff = sha(fresh("layer").encode())
    says = {"Cmd": ["sleep", "1"], "Labels": {"n": fresh("label")}}
    rootfs = {"type": "layers", "diff_ids": [diff]}
    return json.dumps({"os": "linux", "architecture": arch, "config": says, "rootfs": rootfs}).encode()


def manifest_of(config: bytes, *layers: bytes, media: str = OCI) -> bytes:
    """A manifest in the words of either kind."""
    kinds = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip")
    if media == DOCKER:
        kinds = (
            "application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip",
        )  # fmt: skip
    named = {"mediaType": kinds[0], "digest": sha(config), "size": len(config)}
    parts = [{"mediaType": kinds[1], "digest": sha(layer), "size": len(layer)} for layer in layers]
    return json.dumps({"schemaVersion": 2, "mediaType": media, "config": named, "layers": parts}).encode()


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """The status and the code of a refusal, whose shape is the protocol's."""
    body = answer.json()
    assert set(body) == {"errors"} and len(body["errors"]) == 1, body
    assert set(body["errors"][0]) == {"code", "message"} and body["errors"][0]["message"]
    return answer.status_code, body["errors"][0]["code"]


async def send(http: httpx.AsyncClient, name: str, data: bytes) -> str:
    """A part, the way upstream's TypeScript client sends it; its digest."""
    begun = await http.post(f"/v2/{name}/blobs/uploads/")
    assert begun.status_code == 202
    done = await http.put(begun.headers["location"], params={"digest": sha(data)}, content=data)
    assert (done.status_code, done.headers["docker-content-digest"]) == (201, sha(data)), done.text
    return sha(data)


async def put(http: httpx.AsyncClient, name: str, ref: str, data: bytes, media: str = OCI) -> httpx.Response:
    """A manifest."""
    return await http.put(f"/v2/{name}/manifests/{ref}", content=data, headers={"Content-Type": media})


async def until_ready(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """The image of that name."""
    while True:
        answer = await http.get(f"/images/{name}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        if found["status"] in ("ready", "failed"):
            return found
        await asyncio.sleep(0.02)


def folder(served: Served) -> Path:
    """Where uploads lie."""
    return served.parts.engine.images.uploads


async def test_the_door(served: Served, http: httpx.AsyncClient) -> None:
    for path in ("/v2/", "/v2", "/v2/token", "/v2/x/manifests/latest", "/v2/nonsense"):
        answer = await http.get(path, headers=NOBODY)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == f'Bearer realm="{served.url}/v2/token",service="hypeman"'
        assert answer.json() == {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
    answer = await http.get("/v2/")
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("host", ['a"b', "a b", "a\\b", "x" * 300])
async def test_a_host_that_is_none_is_not_repeated(http: httpx.AsyncClient, host: str) -> None:
    answer = await http.get("/v2/", headers=NOBODY | {"Host": host})
    assert answer.status_code in (400, 401)
    assert host not in answer.headers.get("www-authenticate", "")


@pytest.mark.parametrize("how", ["Basic key", "Basic jwt", "Bearer key", "Bearer jwt"])
async def test_a_token_for_a_token(served: Served, http: httpx.AsyncClient, how: str) -> None:
    scheme, _, kind = how.partition(" ")
    secret = served.key if kind == "key" else signed(served)["Authorization"].removeprefix("Bearer ")
    said = base64.b64encode(f"anybody:{secret}".encode()).decode() if scheme == "Basic" else secret
    answer = await http.get(
        "/v2/token", params={"service": "hypeman", "scope": "repository:x:pull,push"},
        headers={"Authorization": f"{scheme} {said}"},
    )  # fmt: skip
    body = answer.json()
    assert set(body) == {"token", "access_token", "expires_in", "issued_at"}
    assert body["token"] == body["access_token"] and 0 < body["expires_in"] <= 300
    assert abs(datetime.fromisoformat(body["issued_at"]).timestamp() - time.time()) < 600
    assert (await http.get("/v2/", headers={"Authorization": f"Bearer {body['token']}"})).status_code == 200
    assert (await http.get("/v2/", headers={"Authorization": f"{scheme} {said}"})).status_code == 200


@pytest.mark.parametrize("header", ["Basic ###", "Basic", "Basic eDp5", "Bearer nonsense", "Digest x", "Basic /w=="])
async def test_what_is_no_token_gets_none(http: httpx.AsyncClient, header: str) -> None:
    assert code_of(await http.get("/v2/token", headers={"Authorization": header})) == (401, "UNAUTHORIZED")


async def test_scopes(served: Served, http: httpx.AsyncClient) -> None:
    reader, writer = signed(served, permissions=["image:read"]), signed(served, permissions=["image:write"])
    digest = sha(b"x")
    for method, path, right, wrong in (
        ("POST", "/v2/x/blobs/uploads/", writer, reader), ("PUT", "/v2/x/manifests/1", writer, reader),
        ("GET", f"/v2/x/blobs/{digest}", reader, writer), ("GET", "/v2/x/manifests/1", reader, writer),
        ("GET", "/v2/x/blobs/uploads/1", writer, reader),
    ):  # fmt: skip
        refused = await http.request(method, path, headers=wrong)
        assert code_of(refused) == (403, "DENIED")
        assert refused.json()["errors"][0]["message"].startswith("missing required scope: image:")
        assert (await http.request(method, path, headers=right)).status_code != 403


@pytest.mark.parametrize("media", [OCI, DOCKER])
async def test_an_image_part_by_part(http: httpx.AsyncClient, sdk: AsyncHypeman, media: str) -> None:
    name, config, layer = fresh("team/app"), about(), fresh("data").encode()
    manifest = manifest_of(config, layer, media=media)
    assert (await http.head(f"/v2/{name}/blobs/{sha(layer)}")).status_code == 404
    for part in (layer, config):
        await send(http, name, part)
    there = await http.head(f"/v2/{name}/blobs/{sha(layer)}")
    assert (there.status_code, there.headers["content-length"]) == (200, str(len(layer)))
    assert (await http.get(f"/v2/{name}/blobs/{sha(layer)}")).content == layer
    for _ in range(2):
        made = await put(http, name, "v1", manifest, media)
        assert made.status_code == 201, made.text
        assert made.headers["docker-content-digest"] == sha(manifest)
        assert made.headers["location"] == f"/v2/{name}/manifests/{sha(manifest)}"
        image = await until_ready(http, f"{name}:v1")
        assert (image["status"], image["digest"], image["cmd"]) == ("ready", sha(manifest), ["sleep", "1"])
    for ref in ("v1", sha(manifest)):
        back = await http.get(f"/v2/{name}/manifests/{ref}")
        assert (back.content, back.headers["content-type"]) == (manifest, media)
        assert (await http.head(f"/v2/{name}/manifests/{ref}")).headers["content-length"] == str(len(manifest))
    assert [one.digest for one in await sdk.images.list() if one.name == f"docker.io/{name}:v1"] == [sha(manifest)]
    assert (await make(sdk, image=f"{name}:v1")).image == f"{name}:v1"


async def test_pieces(http: httpx.AsyncClient) -> None:
    name, data = fresh("pieces"), b"0123456789" * 1000
    where = (await http.post(f"/v2/{name}/blobs/uploads/")).headers["location"]
    one = await http.patch(where, content=data[:4000], headers={"Content-Range": "0-3999"})
    assert (one.status_code, one.headers["range"]) == (202, "0-3999")
    wrong = await http.patch(where, content=data[5000:], headers={"Content-Range": "5000-9999"})
    assert code_of(wrong) == (416, "BLOB_UPLOAD_INVALID")
    assert code_of(await http.patch(where, content=b"x", headers={"Content-Range": "nonsense"}))[0] == 416
    told = await http.get(where)
    assert (told.status_code, told.headers["range"]) == (204, "0-3999")
    assert (await http.patch(where, content=data[4000:8000])).headers["range"] == "0-7999"
    done = await http.put(where, params={"digest": sha(data)}, content=data[8000:])
    assert (done.status_code, done.headers["location"]) == (201, f"/v2/{name}/blobs/{sha(data)}")
    assert (await http.get(done.headers["location"])).content == data
    assert code_of(await http.patch(where, content=b"x")) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_whole_and_mounted(served: Served, http: httpx.AsyncClient) -> None:
    name, data = fresh("whole"), fresh("data").encode()
    done = await http.post(f"/v2/{name}/blobs/uploads/", params={"digest": sha(data)}, content=data)
    assert done.status_code == 201
    other = fresh("other")
    asked = {"mount": sha(data), "from": name}
    mounted = await http.post(f"/v2/{other}/blobs/uploads/", params=asked)
    assert (mounted.status_code, mounted.headers["location"]) == (201, f"/v2/{other}/blobs/{sha(data)}")
    stranger = {"Authorization": f"Bearer {await served.stranger()}"}
    theirs = await http.post(f"/v2/{other}/blobs/uploads/", params=asked, headers=stranger)
    assert theirs.status_code == 202  # it is not told that others have it
    assert (await http.delete(theirs.headers["location"], headers=stranger)).status_code == 204


async def test_nothing_stays_of_what_ends_badly(served: Served, http: httpx.AsyncClient) -> None:
    name, before = fresh("bad"), set(folder(served).iterdir())

    async def cut() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise ConnectionError

    where = (await http.post(f"/v2/{name}/blobs/uploads/")).headers["location"]
    assert code_of(await http.put(where, params={"digest": sha(b"other")}, content=b"x")) == (400, "DIGEST_INVALID")
    assert code_of(await http.get(where)) == (404, "BLOB_UPLOAD_UNKNOWN")
    whole = await http.post(f"/v2/{name}/blobs/uploads/", params={"digest": sha(b"other")}, content=b"x")
    assert code_of(whole) == (400, "DIGEST_INVALID")
    where = (await http.post(f"/v2/{name}/blobs/uploads/")).headers["location"]
    with pytest.raises(ConnectionError):
        await http.patch(where, content=cut())
    while (await http.get(where)).status_code != 404:
        await asyncio.sleep(0.02)
    where = (await http.post(f"/v2/{name}/blobs/uploads/")).headers["location"]
    assert (await http.patch(where, content=b"x")).status_code == 202
    assert (await http.delete(where)).status_code == 204
    assert code_of(await http.delete(where)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert set(folder(served).iterdir()) == before


@pytest.mark.parametrize("digest", ["", "x", "sha256:x", "sha512:" + "0" * 128, "sha256:" + "A" * 64, "../../etc"])
async def test_a_digest_that_is_none(http: httpx.AsyncClient, digest: str) -> None:
    where = (await http.post(f"/v2/{fresh('d')}/blobs/uploads/")).headers["location"]
    assert code_of(await http.put(where, params={"digest": digest}, content=b"x")) == (400, "DIGEST_INVALID")
    assert (await http.delete(where)).status_code == 204


@pytest.mark.parametrize(
    "name", ["UPPER", "a//b", "%2e%2e/%2e%2e/etc", "..%2f..%2fetc", "a/", "-a", "a%00b", "a%0ab", "x" * 256, "é"]
)
async def test_a_name_that_is_none(served: Served, http: httpx.AsyncClient, name: str) -> None:
    before = set(folder(served).iterdir())
    for path in (f"/v2/{name}/blobs/uploads/", f"/v2/{name}/manifests/latest"):
        method = "POST" if path.endswith("/") else "PUT"
        answer = await http.request(method, path)
        assert code_of(answer) in ((400, "NAME_INVALID"), (404, "UNSUPPORTED"))
    assert set(folder(served).iterdir()) == before


@pytest.mark.parametrize(
    ("ref", "code"),
    [("-x", "TAG_INVALID"), ("x" * 129, "TAG_INVALID"), ("sha256:12", "DIGEST_INVALID"), ("a%0a", "TAG_INVALID")],
)
async def test_a_reference_that_is_none(http: httpx.AsyncClient, ref: str, code: str) -> None:
    for method in ("GET", "PUT"):
        assert code_of(await http.request(method, f"/v2/x/manifests/{ref}")) == (400, code)


async def test_paths_and_methods_that_are_none(http: httpx.AsyncClient) -> None:
    for path in ("/v2/x", "/v2/x/tags/list", "/v2/_catalog", "/v2/x/blobs/uploads/a/b"):
        assert code_of(await http.get(path)) == (404, "UNSUPPORTED")
    for method, path in (("DELETE", f"/v2/x/blobs/{sha(b'')}"), ("PATCH", "/v2/x/manifests/1"), ("POST", "/v2/")):
        assert code_of(await http.request(method, path)) == (405, "UNSUPPORTED")
    assert code_of(await http.get(f"/v2/x/blobs/{sha(b'?')}")) == (404, "BLOB_UNKNOWN")
    assert code_of(await http.get("/v2/x/blobs/nonsense")) == (400, "DIGEST_INVALID")
    assert code_of(await http.get("/v2/x/manifests/nowhere")) == (404, "MANIFEST_UNKNOWN")
    assert code_of(await http.get(f"/v2/x/manifests/{sha(b'?')}")) == (404, "MANIFEST_UNKNOWN")


BAD = {
    "no JSON": b"{", "a list": b"[]", "empty": b"", "of another kind": b'{"schemaVersion":1}',
    "said twice": b'{"schemaVersion":2,"schemaVersion":2,"config":{},"layers":[]}',
    "no config": b'{"schemaVersion":2,"layers":[]}', "deep": b"[" * 100_000,
    "layers elsewhere": json.dumps({
        "schemaVersion": 2, "config": {"digest": sha(b""), "size": 0},
        "layers": [{"digest": sha(b""), "size": 0, "urls": ["http://a/"],
                    "mediaType": "application/vnd.oci.image.layer.v1.tar"}],
    }).encode(),
    "negative": json.dumps({"schemaVersion": 2, "config": {"digest": sha(b""), "size": -1}, "layers": []}).encode(),
    "a digest that is a path": json.dumps(
        {"schemaVersion": 2, "config": {"digest": "sha256:../../../etc/passwd", "size": 1}, "layers": []}
    ).encode(),
    "media that is no text": b'{"schemaVersion":2,"mediaType":7,"config":{},"layers":[]}',
    "a list of odd things": b'{"schemaVersion":2,"manifests":[7]}',
    "for others": json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"digest": sha(b""), "size": 0, "platform": {"os": "linux", "architecture": "s390x"}}]}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
async def test_a_manifest_that_is_none(served: Served, http: httpx.AsyncClient, what: str) -> None:
    name, before = fresh("bad"), set(folder(served).iterdir())
    media = INDEX if what == "for others" else OCI
    assert code_of(await put(http, name, "1", BAD[what], media)) == (400, "MANIFEST_INVALID")
    assert (await http.get(f"/images/{name}:1")).status_code == 404
    assert set(folder(served).iterdir()) == before


async def test_manifests_that_do_not_fit(served: Served, http: httpx.AsyncClient) -> None:
    name, config, layer = fresh("fit"), about(), fresh("data").encode()
    manifest = manifest_of(config, layer)
    await send(http, name, config)
    assert code_of(await put(http, name, "1", manifest)) == (400, "MANIFEST_BLOB_UNKNOWN")
    await send(http, name, layer)
    assert code_of(await put(http, name, "1", manifest, DOCKER)) == (400, "MANIFEST_INVALID")
    assert code_of(await put(http, name, sha(b"another"), manifest)) == (400, "DIGEST_INVALID")
    other = json.loads(manifest)
    other["layers"][0]["size"] += 1
    assert code_of(await put(http, name, "1", json.dumps(other).encode())) == (400, "MANIFEST_INVALID")
    assert code_of(await put(http, "busybox", "latest", manifest)) == (403, "DENIED")
    assert code_of(await put(http, name, "1", b" " * (4 * 1024 * 1024 + 1))) == (413, "MANIFEST_INVALID")
    stranger = {"Authorization": f"Bearer {await served.stranger()}", "Content-Type": OCI}
    theirs = await http.put(f"/v2/{name}/manifests/1", content=manifest, headers=stranger)
    assert code_of(theirs) == (400, "MANIFEST_BLOB_UNKNOWN")  # those parts are another project's
    assert (await http.get(f"/images/{name}:1")).status_code == 404


async def test_of_an_index_this_hosts_manifest_is_taken(http: httpx.AsyncClient) -> None:
    name, layer = fresh("multi"), fresh("data").encode()
    offered, named = {}, []
    await send(http, name, layer)
    for arch in ("s390x", architecture()):
        config = about(arch)
        await send(http, name, config)
        offered[arch] = manifest_of(config, layer)
        platform = {"os": "linux", "architecture": arch}
        named.append({"mediaType": OCI, "digest": sha(offered[arch]), "size": len(offered[arch]), "platform": platform})
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": named}).encode()
    assert code_of(await put(http, name, "1", index, INDEX)) == (400, "MANIFEST_BLOB_UNKNOWN")
    for manifest in offered.values():
        assert (await put(http, name, sha(manifest), manifest)).status_code == 201
    assert (await http.get(f"/images/{name}:1")).status_code == 404  # without a tag it is only a part
    made = await put(http, name, "1", index, INDEX)
    assert made.headers["docker-content-digest"] == sha(index)
    assert (await until_ready(http, f"{name}:1"))["digest"] == sha(offered[architecture()])


async def test_an_image_that_cannot_be_made_says_why(http: httpx.AsyncClient) -> None:
    name, config, layer = fresh("foreign"), about("s390x"), fresh("data").encode()
    for part in (config, layer):
        await send(http, name, part)
    assert (await put(http, name, "1", manifest_of(config, layer))).status_code == 201
    image = await until_ready(http, f"{name}:1")
    assert image["status"] == "failed" and "s390x" in image["error"]
    assert (await http.delete(f"/images/{name}:1")).status_code == 204
    assert (await http.get(f"/images/{name}:1")).status_code == 404


async def test_images_are_seen_by_their_project(served: Served, http: httpx.AsyncClient) -> None:
    name, config, layer = fresh("mine"), about(), fresh("data").encode()
    stranger = {"Authorization": f"Bearer {await served.stranger()}"}
    async with httpx.AsyncClient(base_url=served.url, headers=stranger, trust_env=False) as theirs:
        for part in (config, layer):
            await send(theirs, name, part)
        assert (await put(theirs, name, "1", manifest_of(config, layer))).status_code == 201
        assert (await until_ready(theirs, f"{name}:1"))["status"] == "ready"
        assert (await http.head(f"/v2/{name}/blobs/{sha(layer)}")).status_code == 404
        other = {"Authorization": f"Bearer {await served.stranger()}"}
        assert (await http.get(f"/images/{name}:1", headers=other)).status_code == 404
        assert (await http.get(f"/v2/{name}/manifests/1", headers=other)).status_code == 404


async def test_limits(served: Served, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = {"Authorization": f"Bearer {await served.stranger()}"}
    async with httpx.AsyncClient(base_url=served.url, headers=stranger, trust_env=False) as theirs:
        before = set(folder(served).iterdir())
        monkeypatch.setattr(registry, "LIMIT", 1000)
        where = (await theirs.post("/v2/x/blobs/uploads/")).headers["location"]
        assert code_of(await theirs.patch(where, content=b"x" * 1001)) == (413, "SIZE_INVALID")
        monkeypatch.setattr(registry, "HELD", 1500)
        for data, status in ((b"a" * 900, 201), (b"b" * 900, 507)):
            done = await theirs.post("/v2/x/blobs/uploads/", params={"digest": sha(data)}, content=data)
            assert done.status_code == status, done.text
        assert len(set(folder(served).iterdir()) - before) == 1
        monkeypatch.setattr(registry, "_MOST_UPLOADS", 2)
        for status in (202, 202, 429):
            assert (await theirs.post("/v2/x/blobs/uploads/")).status_code == status


async def test_what_nobody_uses_goes(served: Served, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, name, config, layer = served.parts.engine.registry, fresh("old"), about(), fresh("data").encode()
    for part in (config, layer):
        await send(http, name, part)
    await put(http, name, "1", manifest_of(config, layer))
    await until_ready(http, f"{name}:1")
    where = (await http.post(f"/v2/{name}/blobs/uploads/")).headers["location"]
    engine.sweep()
    assert (await http.get(where)).status_code == 204
    now = engine._clock
    monkeypatch.setattr(engine, "_clock", lambda: now() + registry.KEPT + timedelta(seconds=60))
    engine.sweep()
    assert code_of(await http.get(where)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert code_of(await http.get(f"/v2/{name}/manifests/1")) == (404, "MANIFEST_UNKNOWN")
    assert (await http.head(f"/v2/{name}/blobs/{sha(layer)}")).status_code == 404
    assert list(folder(served).iterdir()) == []
    assert all(not shelf.held and not shelf.tags for shelf in engine._shelves.values())
    assert (await until_ready(http, f"{name}:1"))["status"] == "ready"
