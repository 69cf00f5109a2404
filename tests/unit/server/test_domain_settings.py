"""Settings of custom domains: what is wrong is said at the start, and names the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyvisor.model.faults import Invalid, WrongState
from polyvisor.server.bootstrap import SEAL, ensure_seal
from polyvisor.server.config import load


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instavm.domains", "no name"),
        ("instavm.domains", "*.example.com"),
        ("instavm.domain_port", "80"),
        ("instavm.domain_port", "65536"),
        ("instavm.dns", "dns.example.com"),
        ("instavm.dns", "127.0.0.1:0"),
        ("ingress.acme_root", "/nowhere/root.pem"),
    ],
)
def test_what_is_wrong_is_named(field: str, value: str) -> None:
    with pytest.raises(Invalid) as told:
        load(None, {"ingress.acme_ca": "https://ca.example.com", "ingress.tls_domains": "example.com", field: value})
    assert told.value.field == field


def test_what_is_right_is_taken(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_text("PEM")
    given = {
        "instavm.domains": "VMs.example.com.", "instavm.dns": "127.0.0.1:5353, [::1]", "instavm.domain_port": "8443",
        "ingress.acme_ca": "https://ca.example.com", "ingress.acme_root": str(tmp_path / "root.pem"),
        "ingress.tls_domains": "example.com",
    }  # fmt: skip
    config = load(None, given)
    assert config.instavm.resolvers() == [("127.0.0.1", 5353), ("::1", 53)]
    assert (config.sandboxes().domains, config.sandboxes().domain_port) == ("vms.example.com", 8443)
    assert config.ingress.settings().roots == "PEM"
    with pytest.raises(Invalid, match="acme_root"):
        load(None, {"ingress.acme_root": str(tmp_path / "root.pem")})


def test_the_key_of_secrets_is_made_once_and_never_over_a_spoilt_one(tmp_path: Path) -> None:
    key = ensure_seal(tmp_path)
    assert ensure_seal(tmp_path) == key
    assert (tmp_path / SEAL).stat().st_mode & 0o777 == 0o600
    (tmp_path / SEAL).write_text("spoilt")
    with pytest.raises(WrongState):
        ensure_seal(tmp_path)
    assert (tmp_path / SEAL).read_text() == "spoilt"
