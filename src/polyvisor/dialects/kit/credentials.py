"""Who asks, from a request: its `Authorization` header, and where it came from."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from polyvisor.model.faults import Forbidden
from polyvisor.model.principal import Credential


def source_of(connection: HTTPConnection) -> str:
    """The address that the request came from; nobody's word is taken for another one."""
    return connection.client.host if connection.client else ""


def from_authorization(header: str, source: str = "") -> Credential | None:
    """The credential of a Bearer or Basic header; None when it is neither."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return Credential(key=rest.strip(), source=source)
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(rest.strip(), validate=True).decode().partition(":")
        except ValueError:
            return None
        if "\0" in name:  # no user is called that, and not every store can be asked
            return None
        return Credential(name=name, password=password, source=source)
    return None


def check_origin(connection: HTTPConnection) -> None:
    """A browser that remembers a password sends it along with what another site's page asks: that is not our caller.

    :raise Forbidden: the page is not ours.
    """
    origin = connection.headers.get("origin")
    if origin is None:
        return
    try:
        site = urlsplit(origin).netloc
    except ValueError:  # no address at all
        site = ""
    if site != connection.headers.get("host", ""):
        raise Forbidden("a page of another site may not use this API", field="Origin")
