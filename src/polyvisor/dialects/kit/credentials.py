"""Reading an `Authorization` header."""

from __future__ import annotations

import base64

from polyvisor.model.principal import Credential


def from_authorization(header: str) -> Credential | None:
    """The credential of a Bearer or Basic header; None when it is neither."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return Credential(key=rest.strip())
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(rest.strip(), validate=True).decode().partition(":")
        except ValueError:
            return None
        if "\0" in name:  # no user is called that, and not every store can be asked
            return None
        return Credential(name=name, password=password)
    return None
