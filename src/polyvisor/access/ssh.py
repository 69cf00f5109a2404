"""What is a public key: OpenSSH's one line, read whole."""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from polyvisor.model.faults import Invalid
from polyvisor.model.ssh import MOST_COMMENT, MOST_KEY

_LEAST_RSA, _MOST_RSA = 2048, 16384


def read_public_key(text: str) -> tuple[str, str, str]:
    """(the key without a comment, its fingerprint, its comment).

    :raise Invalid: it is none, of a kind that is too weak, or several.
    """
    line = text.strip()
    if len(text) > MOST_KEY or "\n" in line or "\r" in line or not line.isprintable():
        raise Invalid("public_key: must be one line as OpenSSH writes it", field="public_key")
    kind, _, rest = line.partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
        key = load_ssh_public_key(f"{kind} {encoded}".encode())
    except (ValueError, binascii.Error, UnsupportedAlgorithm) as error:
        text = "public_key: is no OpenSSH public key of a kind that is known here (ed25519, ecdsa, rsa)"
        raise Invalid(text, field="public_key") from error
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise Invalid(f"public_key: keys of kind {kind} are not taken (ed25519, ecdsa, rsa)", field="public_key")
    if isinstance(key, rsa.RSAPublicKey) and not _LEAST_RSA <= key.key_size <= _MOST_RSA:
        raise Invalid(f"public_key: RSA keys must have {_LEAST_RSA} to {_MOST_RSA} bits", field="public_key")
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"{kind} {encoded}", f"SHA256:{digest}", comment.strip()[:MOST_COMMENT]
