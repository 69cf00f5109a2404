"""Texts sealed by a key that lies beside the store and not in it: AES-256 in GCM, a nonce for each."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from polyvisor.host.durable import sync
from polyvisor.host.vaults.authority import Authority, hashed_name
from polyvisor.model.faults import Internal
from polyvisor.ports.vaults import Trusted

_KEY, _NONCE = 32, 12
_VERSION = "1:"
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


class FileSealer:
    """See `ports.vaults.Sealer`. The key is made when it is first needed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._cipher: AESGCM | None = None

    def seal(self, text: str, about: str) -> str:
        """See Sealer."""
        nonce = os.urandom(_NONCE)
        sealed = self._with(make=True).encrypt(nonce, text.encode(), about.encode())
        return _VERSION + base64.b64encode(nonce + sealed).decode()

    def reveal(self, sealed: str, about: str) -> str:
        """See Sealer."""
        try:
            data = base64.b64decode(sealed.removeprefix(_VERSION), validate=True)
            return self._with(make=False).decrypt(data[:_NONCE], data[_NONCE:], about.encode()).decode()
        except (ValueError, InvalidTag) as error:
            raise Internal(private=f"what is sealed for {about} cannot be opened by {self._file}") from error

    def _with(self, *, make: bool) -> AESGCM:
        if self._cipher is None:
            try:
                key = self._file.read_bytes()
            except FileNotFoundError:
                if not make:
                    raise Internal(private=f"{self._file} is gone") from None
                key = self._create()
            if len(key) != _KEY:
                raise Internal(private=f"{self._file} is no key")
            self._cipher = AESGCM(key)
        return self._cipher

    def _create(self) -> bytes:
        """It has to be there for good before anything is sealed with it."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = os.urandom(_KEY)
        part = self._file.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(key)
        sync(part)
        part.replace(self._file)
        sync(self._file.parent)
        return key


class FileSafe:
    """See `ports.vaults.Safe`: all of it in one folder."""

    def __init__(self, folder: Path) -> None:
        self.sealer = FileSealer(folder / "key")
        self.authority = Authority(folder)

    def trusted(self) -> Trusted:
        """See Safe."""
        certificate = self.authority.certificate
        bundle = next((path for path in map(Path, _BUNDLES) if path.exists()), None)
        return Trusted(certificate, hashed_name(certificate), bundle.read_bytes() if bundle else b"")
