"""Images that the operator's settings name: a file of this host or a URL, with its checksum.

Who writes the settings may name any address; what comes from there is a stranger's all the same, and is looked at as
every import is once it is what the checksum says.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import httpx

from polyvisor.host.images.bounds import Bounds
from polyvisor.host.images.threads import in_thread
from polyvisor.model.faults import Upstream
from polyvisor.model.image import ImageSource
from polyvisor.model.units import MIB

_PATIENCE = httpx.Timeout(60.0)


async def fetch(source: ImageSource, name: str, target: Path, bounds: Bounds) -> Path:
    """A file with what is to be imported, verified: the operator's own, or `target`. :raise Upstream, Invalid:"""
    if source.file:
        await in_thread(verify, Path(source.file), source, name)
        return Path(source.file)
    sum = hashlib.sha256()
    try:
        async with (
            httpx.AsyncClient(follow_redirects=True, timeout=_PATIENCE) as http,
            http.stream("GET", source.url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            answer.raise_for_status()
            with target.open("xb") as file:
                async for chunk in answer.aiter_raw(MIB):
                    sum.update(chunk)
                    await in_thread(file.write, chunk)
                    bounds.check("the size of the file", file.tell(), bounds.content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Upstream(f"os: the image of {name} cannot be fetched", field="os", private=repr(error)) from error
    _compare(sum.hexdigest(), source, name)
    return target


def verify(file: Path, source: ImageSource, name: str) -> None:
    """:raise Upstream: the file is not what its checksum says, or is not there."""
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise Upstream(f"os: the image of {name} cannot be read", field="os", private=str(error)) from error
    _compare(found, source, name)


def _compare(found: str, source: ImageSource, name: str) -> None:
    if not hmac.compare_digest(found, source.sha256):
        private = f"it has the SHA-256 {found}"
        raise Upstream(f"os: the image of {name} is not what its checksum says", field="os", private=private)
