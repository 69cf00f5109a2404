"""Signed tokens: JSON Web Tokens over the secret that this installation made at its first start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt

from polyvisor.model.faults import Unauthenticated

_ALGORITHM = "HS256"


def read_token(token: str, secret: str) -> Mapping[str, Any]:
    """The claims of a token that we signed and that is in force.

    :raise Unauthenticated: without saying what was wrong with it.
    """
    try:
        claims: Mapping[str, Any] = jwt.decode(token, secret, algorithms=[_ALGORITHM], options={"verify_aud": False})
    except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError) as error:
        raise Unauthenticated("invalid token", private=str(error)) from error
    return claims
