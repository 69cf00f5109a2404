"""First start: an operator, a project, a key, a certificate; told in `bootstrap.json`, readable by its owner alone."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from polyvisor.access.credentials import new_key
from polyvisor.access.passwords import hash_password
from polyvisor.access.seal import new_key as new_seal_key
from polyvisor.model.faults import NotFound, WrongState
from polyvisor.model.identity import Project, User
from polyvisor.model.ids import ProjectId, UserId, mint
from polyvisor.ports.store import Store

FILE = "bootstrap.json"
CERTIFICATE = "tls.crt"
PRIVATE_KEY = "tls.key"
SEAL = "seal.key"
_ADMIN = "root"
_PROJECT = "root"
_DAYS = 3650


async def ensure_operator(store: Store, data: Path, clock: Callable[[], datetime.datetime]) -> dict[str, Any]:
    """The bootstrap facts, made at the first start. The file is written before the records: a crash in between
    makes the next start write both anew, never a key that nobody knows."""
    file = data / FILE
    if file.exists():
        facts = _read(file)
        async with store.read() as unit:
            try:
                await unit.identities.project(ProjectId(facts["project"]))
                return facts
            except NotFound:
                pass  # a new store beside an old file: begin anew
    now = clock()
    async with store.read() as unit:
        roots = [project for project in await unit.identities.projects() if project.parent is None]
        known = await unit.identities.user_named(_ADMIN)
    project = roots[0] if roots else Project(ProjectId(mint()), _PROJECT, now)
    key, record = new_key("bootstrap", project.id, now, operator=True)
    password = secrets.token_urlsafe(18)
    facts = {
        "url": "", "tls_url": "", "ssh": "", "ca_file": str(data / CERTIFICATE),
        "admin": {"username": _ADMIN, "password": password}, "api_key": key,
        "jwt_secret": secrets.token_urlsafe(32), "project": project.id,
    }  # fmt: skip
    write_private(file, json.dumps(facts, indent=2) + "\n")
    hashed = hash_password(password)
    async with store.write() as unit:
        if not roots:
            await unit.identities.add_project(project)
        await unit.identities.add_key(record)
        admin = User(known.id if known else UserId(mint()), _ADMIN, hashed, project.id, True, now)
        await (unit.identities.save_user(admin) if known else unit.identities.add_user(admin))
    return facts


def _read(file: Path) -> dict[str, Any]:
    """:raise WrongState: somebody has spoilt it."""
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
        facts["project"], facts["api_key"], facts["jwt_secret"]
    except (ValueError, KeyError, TypeError) as error:
        raise WrongState(f"{file} cannot be read: put it back, or remove it to have a new one written") from error
    return facts


def ensure_seal(data: Path) -> str:
    """The key that secrets in the store are sealed with, made once. It is not in the store: who has that alone reads
    none of them. :raise WrongState: somebody has spoilt it."""
    file = data / SEAL
    if not file.exists():
        write_private(file, new_seal_key() + "\n")
    text = file.read_text().strip()
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise WrongState(f"{file} cannot be read: put it back; without it secrets in the store are lost")
    return text


def tell_addresses(data: Path, facts: dict[str, Any], url: str, tls_url: str, ssh: str = "") -> None:
    """Write where the server listens now."""
    facts.update(url=url, tls_url=tls_url, ssh=ssh)
    write_private(data / FILE, json.dumps(facts, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, mode 0600 from its first byte."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def ensure_certificate(data: Path) -> tuple[Path, Path]:
    """A self-signed certificate for this machine's loopback names, made once. It is its own CA file."""
    certificate, key_file = data / CERTIFICATE, data / PRIVATE_KEY
    if certificate.exists() and key_file.exists():
        return certificate, key_file
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "polyvisor")])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.DNSName("localhost"), x509.DNSName(os.uname().nodename),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.IPAddress(ipaddress.ip_address("::1")),
    ]  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(key_file, private.decode())
    write_private(certificate, made.public_bytes(serialization.Encoding.PEM).decode())
    return certificate, key_file
