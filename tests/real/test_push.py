"""Images pushed into this server by skopeo, and a machine of one."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman, BadRequestError
from hypeman.types import Image

from real.archives import as_tar, config, docker_save, entry, oci_layout, sha, tar
from real.test_image_sources import shell
from real.upstream import SMALL, Machines
from serving import Server

SAYS = {"Cmd": ["/bin/sh", "-c", "cat /hello; sleep 3600"], "Env": ["PATH=/bin"]}


def fresh() -> str:
    """A name that no other test has."""
    return "p" + uuid.uuid4().hex[:10]


def pushed(server: Server, source: str, name: str, key: str | None = None, *flags: str) -> Any:
    """What `skopeo copy` into the server did."""
    host = server.facts["url"].removeprefix("http://")
    return subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *flags,
         "--dest-creds", f"anybody:{key or server.facts['api_key']}", source, f"docker://{host}/{name}"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


async def until_made(sdk: AsyncHypeman, name: str) -> Image:
    """The image, when it is ready or has failed; a loaded machine may take its time."""
    for _ in range(1200):
        found = await sdk.images.get(name)
        if found.status in ("ready", "failed"):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{name} is {found.status}")


def left_in(server: Server) -> list[str]:
    """What of uploads is a folder: parts may stay for a while, half-made images may not."""
    return [path.name for path in (server.data / "uploads").iterdir() if path.is_dir()]


@pytest.mark.parametrize("form", ["docker-archive", "oci-gzip", "oci-zstd", "oci-archive"])
async def test_what_skopeo_pushes_runs(base: Server, machines: Machines, tmp_path: Path, form: str) -> None:
    layer = shell(entry("hello", form.encode()))
    if form == "docker-archive":
        source = f"docker-archive:{docker_save(tmp_path / 'a.tar', layer, says=SAYS)}"
    elif form == "oci-archive":
        source = f"oci-archive:{as_tar(oci_layout(tmp_path / 'l', layer, says=SAYS), tmp_path / 'a.tar')}"
    else:
        source = f"oci:{oci_layout(tmp_path / 'l', layer, says=SAYS, how=form.removeprefix('oci-'))}"
    name = f"{fresh()}/{form}:v1"
    kept = tmp_path / "digest"
    done = pushed(base, source, name, None, "--digestfile", str(kept))
    assert done.returncode == 0, done.stderr
    image = await until_made(machines.sdk, name)
    assert (image.status, image.digest, image.cmd) == ("ready", kept.read_text(), SAYS["Cmd"]), image
    assert image.name == f"docker.io/{name}"
    assert left_in(base) == []
    made = await machines.make(image=name, size=SMALL)
    assert await machines.say(made.id, "cat /hello") == form
    again = pushed(base, source, name)
    assert again.returncode == 0, again.stderr
    assert (await until_made(machines.sdk, name)).digest == image.digest


@pytest.fixture
async def sdk(base: Server) -> AsyncIterator[AsyncHypeman]:
    """Upstream's client."""
    async with httpx.AsyncClient(trust_env=False) as http:
        yield AsyncHypeman(
            api_key=base.facts["api_key"], base_url=base.facts["url"], http_client=http, timeout=120, max_retries=0
        )


async def test_a_push_that_is_no_image_fails_and_says_why(base: Server, sdk: AsyncHypeman, tmp_path: Path) -> None:
    name = f"{fresh()}:1"
    foreign = oci_layout(tmp_path / "l", [entry("a", b"x")], arch="s390x")
    assert pushed(base, f"oci:{foreign}", name).returncode == 0
    image = await until_made(sdk, name)
    assert image.status == "failed" and "s390x" in str(image.error), image
    assert left_in(base) == []
    await sdk.images.delete(name)


async def by_hand(http: httpx.AsyncClient, name: str, blob: bytes, tarred: bytes, ending: str) -> httpx.Response:
    """Push an image of one layer as it is: skopeo would refuse to, or pack it first. The manifest's answer."""
    about = config([tarred], says=SAYS)
    for part in (blob, about):
        asked = {"digest": f"sha256:{sha(part)}"}
        done = await http.post(f"/v2/{name}/blobs/uploads/", params=asked, content=part)
        assert done.status_code == 201, done.text
    media = "application/vnd.oci.image."
    layer = {"mediaType": f"{media}layer.v1.tar{ending}", "digest": f"sha256:{sha(blob)}", "size": len(blob)}
    named = {"mediaType": f"{media}config.v1+json", "digest": f"sha256:{sha(about)}", "size": len(about)}
    manifest = {"schemaVersion": 2, "mediaType": f"{media}manifest.v1+json", "config": named, "layers": [layer]}
    headers = {"Content-Type": f"{media}manifest.v1+json"}
    return await http.put(f"/v2/{name}/manifests/1", json=manifest, headers=headers)


@pytest.mark.parametrize("what", ["plain", "damaged", "another layer", "a path out"])
async def test_layers_are_believed_in_nothing(base: Server, sdk: AsyncHypeman, what: str) -> None:
    tarred = tar([entry("../../../etc/passwd" if what == "a path out" else "hello", what.encode() * 100)])
    blob, ending = (tarred, "") if what in ("plain", "a path out") else (gzip.compress(tarred), "+gzip")
    if what == "damaged":
        blob = blob[:-20]
    name = fresh()
    headers = {"Authorization": f"Bearer {base.facts['api_key']}"}
    async with httpx.AsyncClient(base_url=base.facts["url"], headers=headers, trust_env=False) as http:
        made = await by_hand(http, name, blob, tarred + b"x" if what == "another layer" else tarred, ending)
    assert made.status_code == 201, made.text
    image = await until_made(sdk, f"{name}:1")
    assert (image.status == "ready") == (what == "plain"), image
    assert bool(image.error) == (what != "plain")
    assert left_in(base) == []
    await sdk.images.delete(f"{name}:1")


async def test_an_instance_of_what_is_not_made_yet_waits_for_it(
    base: Server, machines: Machines, tmp_path: Path
) -> None:
    name = f"{fresh()}:1"
    layout = oci_layout(tmp_path / "l", shell(entry("hello", b"x")), says=SAYS)
    assert pushed(base, f"oci:{layout}", name).returncode == 0
    for _ in range(100):
        try:
            await machines.make(image=name, size=SMALL)
        except BadRequestError as refused:
            assert "image_not_ready" in str(refused)
            continue
        return
    raise AssertionError("it is never ready")


async def test_the_last_push_of_a_name_has_it(base: Server, sdk: AsyncHypeman, tmp_path: Path) -> None:
    name = f"{fresh()}:1"
    digests = []
    for number in range(3):
        layout = oci_layout(tmp_path / str(number), [entry("a", str(number).encode() * 5000)])
        done = pushed(base, f"oci:{layout}", name, None, "--digestfile", str(tmp_path / "digest"))
        assert done.returncode == 0, done.stderr
        digests.append((tmp_path / "digest").read_text())
    assert len(set(digests)) == len(digests)
    assert (await until_made(sdk, name)).digest == digests[-1]


async def test_only_who_may_pushes(base: Server, tmp_path: Path) -> None:
    layout = oci_layout(tmp_path / "l", [entry("a", b"x")])
    done = pushed(base, f"oci:{layout}", f"{fresh()}:1", "nonsense")
    assert done.returncode != 0
    assert "unauthorized" in done.stderr
    done = pushed(base, f"oci:{layout}", "busybox:latest")
    assert done.returncode != 0
    assert "built-in" in done.stderr


async def test_a_killed_server_leaves_nothing_of_a_push(tmp_path: Path) -> None:
    server = Server(tmp_path / "data").start()
    try:
        async with httpx.AsyncClient(base_url=server.facts["url"], trust_env=False) as http:
            http.headers["Authorization"] = f"Bearer {server.facts['api_key']}"
            where = (await http.post("/v2/x/blobs/uploads/")).headers["location"]
            assert (await http.patch(where, content=b"x" * 100_000)).status_code == 202
        folder = server.data / "uploads"
        assert len(list(folder.iterdir())) == 1
        (folder / "half").mkdir()  # an image that was being put together
        (folder / "half" / "manifest.json").touch()
        server.kill()
        server.start()
        assert list(folder.iterdir()) == []
    finally:
        server.stop()
