"""What is read of Caddy's certificates, and of its log where there are none."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from polyvisor.host.ingress.certificates import forget, issuer, look
from polyvisor.host.ingress.document import LOG, Settings, document
from polyvisor.model.ids import IngressId
from polyvisor.model.ingress import Route, Rule

NOW = datetime.now(UTC)
SITE = "app.example.com"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Settings(), "local"),
        (Settings(email="a@b.c"), "acme-v02.api.letsencrypt.org-directory"),
        (Settings(ca="https://CA.example.com:14000/acme/dir/"), "ca.example.com-14000-acme-dir"),
        (Settings(ca="https://ca.example.com"), "ca.example.com"),
    ],
)
def test_an_authority_has_a_folder(settings: Settings, name: str) -> None:
    assert issuer(settings) == name


def kept(folder: Path, begin: datetime, end: datetime) -> Path:
    """A certificate and its key where Caddy has them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SITE)])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(begin).not_valid_after(end)
    where = folder / "own/data/certificates/local" / SITE
    where.mkdir(parents=True, exist_ok=True)
    (where / f"{SITE}.crt").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (where / f"{SITE}.key").write_text("key")
    return where


def test_one_in_force_is_issued_once_it_is_served(tmp_path: Path) -> None:
    end = (NOW + timedelta(days=1)).replace(microsecond=0)
    where = kept(tmp_path, NOW - timedelta(days=1), end)
    found = look(tmp_path, SITE, Settings(), NOW, served=True)
    assert (found.until, found.key, found.issued) == (end, True, True)
    assert not look(tmp_path, SITE, Settings(), NOW, served=False).issued
    assert look(tmp_path, SITE, Settings(email="a@b.c"), NOW, served=True).until is None  # another authority's
    assert look(tmp_path, "other.example.com", Settings(), NOW, served=True).until is None
    forget(tmp_path, "other.example.com")
    forget(tmp_path, SITE)
    assert not where.exists()
    forget(tmp_path, SITE)


@pytest.mark.parametrize("days", [(-2, -1), (1, 2)])
def test_one_that_is_not_in_force_is_none(tmp_path: Path, days: tuple[int, int]) -> None:
    kept(tmp_path, *(NOW + timedelta(days=one) for one in days))
    assert look(tmp_path, SITE, Settings(), NOW, served=True).until is None


def test_the_last_reason_of_a_name_is_told(tmp_path: Path) -> None:
    def line(site: str, error: object, after: float) -> str:
        return json.dumps({"ts": NOW.timestamp() + after, "identifier": site, "error": error})

    lines = [
        line(SITE, "too early", -1), line(SITE, "first", 1), line(SITE, "x" * 1000, 2), line("other.x", "other", 3),
        line(SITE, 5, 4), "no JSON", '"text"', json.dumps({"identifier": SITE, "error": "no time"}),
    ]  # fmt: skip
    assert look(tmp_path, SITE, Settings(), NOW, served=True).error == ""
    (tmp_path / LOG).write_text("\n".join(["x" * 300_000, *lines]))
    assert look(tmp_path, SITE, Settings(), NOW, served=True).error == "x" * 300
    assert look(tmp_path, SITE, Settings(), NOW + timedelta(seconds=9), served=True).error == ""


def test_an_authority_in_the_house_is_believed() -> None:
    rule = Rule(SITE, "x", 80, 443, tls=True)
    whole = document([Route(IngressId("i" * 24), 0, rule)], Settings(ca="https://ca.x/dir", roots="PEM"))
    (found,) = whole["apps"]["tls"]["automation"]["policies"][0]["issuers"]
    assert found == {"module": "acme", "email": "", "ca": "https://ca.x/dir", "trusted_roots_pem_files": ["roots.pem"]}
