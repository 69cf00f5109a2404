"""Secrets that have to be used later and so cannot be hashed: sealed in the store, under a key that is not in it."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from polyvisor.model.faults import Internal

_NONCE = 12
_LENGTH = 32


def new_key() -> str:
    """The key of an installation."""
    return secrets.token_hex(_LENGTH)


@dataclass(frozen=True, slots=True)
class Seal:
    """`about` is what a text belongs to: it is revealed for that alone, so nobody gets it by moving rows about."""

    key: str = field(repr=False)

    def seal(self, text: str, about: str) -> str:
        """The text as it may be written down."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher().encrypt(nonce, text.encode(), about.encode())
        return base64.b64encode(nonce + sealed).decode()

    def reveal(self, sealed: str, about: str) -> str:
        """:raise Internal: it was sealed with another key, or for something else."""
        try:
            bare = base64.b64decode(sealed, validate=True)
            return self._cipher().decrypt(bare[:_NONCE], bare[_NONCE:], about.encode()).decode()
        except (InvalidTag, ValueError) as error:
            text = "a secret cannot be read: the key of this installation is another one by now"
            raise Internal(text, private=f"{about}: {error!r}") from error

    def _cipher(self) -> AESGCM:
        return AESGCM(bytes.fromhex(self.key))
