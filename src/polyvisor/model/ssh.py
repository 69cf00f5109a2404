"""SSH keys that let their owners into instances."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from polyvisor.model.task import Owner

MOST_KEY = 16 * 1024  # characters of a key's text
MOST_COMMENT = 255


@dataclass(frozen=True, slots=True)
class SshKey:
    """A public key, as OpenSSH writes it in one line without its comment. Who has the private one is its owner, with
    what the owner may do then. `number` is given once and never again; 0: not given yet. `fingerprint` is OpenSSH's
    `SHA256:…`."""

    owner: Owner
    fingerprint: str
    public: str
    comment: str
    created: datetime
    expires: datetime | None = None
    number: int = 0
