"""The authority that guests with vaults believe, made once for an installation, and the certificates that it signs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from polyvisor.host.durable import sync, write_private
from polyvisor.ports.vaults import Trusted

_NAME = "polyvisor vaults"
_LASTS, _LEAF_LASTS = timedelta(days=3650), timedelta(days=30)
_RENEW = timedelta(days=15)
_BEFORE = timedelta(days=2)  # a guest's clock may be behind
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_MOST = 512  # certificates that are remembered
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class _Leaf:
    context: ssl.SSLContext
    made: datetime


class Authority:
    """Its key is in a file that only this user may read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._leaves: OrderedDict[str, _Leaf] = OrderedDict()
        self._made: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None = None
        self._turn = threading.Lock()  # who comes first makes it; all of them are in threads of their own
        self._key = ec.generate_private_key(ec.SECP256R1())  # of all certificates that this process signs

    @property
    def certificate(self) -> bytes:
        """Its own, as PEM."""
        return self._ours()[1].public_bytes(_PEM)

    def trusted(self) -> Trusted:
        """See `ports.vaults.Authority`."""
        certificate = self.certificate
        bundle = next((path for path in map(Path, _BUNDLES) if path.exists()), None)
        return Trusted(certificate, hashed_name(certificate), bundle.read_bytes() if bundle else b"")

    async def context(self, host: str) -> ssl.SSLContext:
        """To be that host for a guest."""
        now = datetime.now(UTC)
        leaf = self._leaves.get(host)
        if leaf is None or leaf.made + _RENEW < now:
            leaf = _Leaf(await asyncio.to_thread(self._signed, host, now), now)
            self._leaves[host] = leaf
        self._leaves.move_to_end(host)
        while len(self._leaves) > _MOST:
            self._leaves.popitem(last=False)
        return leaf.context

    def _ours(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        with self._turn:
            if self._made is None:
                self._made = self._read() or self._create()
            return self._made

    def _read(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        """Both or nothing: they are in one file."""
        try:
            pem = (self._folder / "authority.pem").read_bytes()
            key = serialization.load_pem_private_key(pem, None)
            certificate = x509.load_pem_x509_certificate(pem)
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.not_valid_after_utc < datetime.now(UTC):
            return None
        return key, certificate

    def _create(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        number = x509.random_serial_number()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_NAME} {number:040x}"[:40])])
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        made = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(number).not_valid_before(now - _BEFORE).not_valid_after(now + _LASTS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._folder / "authority.pem.part"
        write_private(part, _private(key) + made.public_bytes(_PEM))
        sync(part)
        part.replace(self._folder / "authority.pem")
        sync(self._folder)
        return key, made

    def _signed(self, host: str, now: datetime) -> ssl.SSLContext:
        authority, ours = self._ours()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
        made = (
            x509.CertificateBuilder().subject_name(name).issuer_name(ours.subject).public_key(self._key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - _BEFORE)
            .not_valid_after(now + _LEAF_LASTS)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
            )
            .sign(authority, hashes.SHA256())
        )  # fmt: skip
        return self._context(made)

    def _context(self, made: x509.Certificate) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        fd = os.memfd_create("leaf")  # `ssl` reads nothing but files, and one on a disk would outlast a dead server
        try:
            os.write(fd, _private(self._key) + made.public_bytes(_PEM))
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return context


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def hashed_name(pem: bytes) -> str:
    """What OpenSSL calls a certificate in a folder of them: a hash of its subject, all of it in lower case."""
    (name,) = x509.load_pem_x509_certificate(pem).subject
    text = " ".join(str(name.value).lower().split()).encode()
    oid = bytes.fromhex("0603550403")  # commonName
    pair = oid + bytes([0x0C, len(text)]) + text
    whole = bytes([0x30, len(pair)]) + pair
    digest = hashlib.sha1(bytes([0x31, len(whole)]) + whole, usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}.0"
