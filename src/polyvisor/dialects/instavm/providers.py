"""Who writes a domain's records: its owner by hand, or this server at a name server that takes changes (RFC 2136).

Other providers have APIs of their own, none of which this server speaks; they are refused by name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from polyvisor.model.domain import Zone, parse_name, parse_server
from polyvisor.model.faults import Invalid, Unsupported

MANUAL, RFC2136 = "manual", "rfc2136"
KNOWN = (MANUAL, RFC2136)
_NEEDED = ("server", "zone", "key_name", "key_secret")
_ALGORITHM = "key_algorithm"
_ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")


def admit(
    provider: str | None, credentials: Mapping[str, str] | None, domain: str, where: str
) -> tuple[str, Mapping[str, str]]:
    """A provider, and its credentials looked through. :raise Unsupported, Invalid: naming the field, never a value."""
    name = (provider or MANUAL).strip().lower()
    if name not in KNOWN:
        at = f"{where}dns_provider"
        raise Unsupported(f"{at}: {name[:40]!r} is not one of {', '.join(KNOWN)}", field=at)
    if name == MANUAL:
        if credentials:
            at = f"{where}dns_credentials"
            raise Invalid(f"{at}: are of no use to dns_provider {MANUAL}, and are not kept", field=at)
        return name, {}
    given = dict(credentials or {})
    _check_keys(given, f"{where}dns_credentials")
    _check_values(given, domain, f"{where}dns_credentials")
    return name, given


def _check_keys(given: Mapping[str, str], where: str) -> None:
    for key in _NEEDED:
        if not given.get(key):
            raise Invalid(f"{where}.{key}: is needed by dns_provider {RFC2136}", field=f"{where}.{key}")
    for key in given.keys() - {*_NEEDED, _ALGORITHM}:
        text = f"{where}: {key[:40]!r} is not one of {', '.join((*_NEEDED, _ALGORITHM))}"
        raise Invalid(text, field=where)


def _check_values(given: Mapping[str, str], domain: str, where: str) -> None:
    parse_server(given["server"], f"{where}.server")
    parse_name(given["zone"], f"{where}.zone")
    _check_key(given, where)
    if not zone(given).holds(domain):
        raise Invalid(f"{where}.zone: {domain} is not in it", field=f"{where}.zone")


def _check_key(given: Mapping[str, str], where: str) -> None:
    name = given["key_name"].removesuffix(".")
    if not name.isascii() or len(name) > 200 or not all(0 < len(label) < 64 for label in name.split(".")):
        raise Invalid(f"{where}.key_name: is no name of a key", field=f"{where}.key_name")
    if given.get(_ALGORITHM, _ALGORITHMS[0]) not in _ALGORITHMS:
        text = f"{where}.{_ALGORITHM}: must be one of {', '.join(_ALGORITHMS)}"
        raise Invalid(text, field=f"{where}.{_ALGORITHM}")
    try:
        short = len(base64.b64decode(given["key_secret"], validate=True)) < 16
    except (binascii.Error, ValueError):
        short = True
    if short:
        raise Invalid(f"{where}.key_secret: must be 16 bytes or more in base64", field=f"{where}.key_secret")


def zone(credentials: Mapping[str, str]) -> Zone:
    """What credentials that were looked through lead to."""
    host, port = parse_server(credentials["server"], "server")
    name = parse_name(credentials["zone"], "zone")
    algorithm = credentials.get(_ALGORITHM, _ALGORITHMS[0])
    return Zone(host, port, name, credentials["key_name"], algorithm, credentials["key_secret"])
