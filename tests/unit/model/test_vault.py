"""What a service does to a request, and whose host is whose."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from polyvisor.model.faults import Invalid
from polyvisor.model.ids import ServiceId, VaultId
from polyvisor.model.vault import (
    TEMPLATES,
    Auth,
    AuthKind,
    VaultEntry,
    check_auth,
    chosen,
    matches,
    opening,
    placeholders,
    written_for,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VALUES = {"ME": "me", "KEY": "va/l"}


BEARER = Auth(AuthKind.BEARER, "KEY")


def entry(host: str, auth: Auth = BEARER, *, enabled: bool = True) -> VaultEntry:
    """A service."""
    return VaultEntry(ServiceId(host), VaultId("v"), host, auth, NOW, enabled=enabled)


@pytest.mark.parametrize(
    ("auth", "headers"),
    [
        (Auth(AuthKind.BEARER, "KEY"), {"Authorization": b"Bearer va/l"}),
        (Auth(AuthKind.API_KEY, "KEY", header="X-Key"), {"X-Key": b"va/l"}),
        (Auth(AuthKind.API_KEY, "KEY", header="X-Key", prefix="Token "), {"X-Key": b"Token va/l"}),
        (Auth(AuthKind.BASIC, "KEY", "ME"), {"Authorization": b"Basic " + base64.b64encode(b"me:va/l")}),
        (
            Auth(AuthKind.CUSTOM, headers=(("X-A", "a {{ KEY }}-{{ME}}"), ("X-B", "b"))),
            {"X-A": b"a va/l-me", "X-B": b"b"},
        ),
    ],
)
def test_each_kind_has_its_headers(auth: Auth, headers: dict[str, bytes]) -> None:
    found = opening(entry("a.example", check_auth(auth)), VALUES)
    assert found is not None and dict(found.headers) == headers and not found.path
    assert (b"va/l", b"KEY") in found.hidden and "va/l" not in repr(found)


def test_a_path_has_a_word_in_place_of_another() -> None:
    found = opening(entry("a.example", Auth(AuthKind.URL_PATH, "KEY", placeholder="TOKEN")), VALUES)
    assert found is not None and found.path == ((b"TOKEN", b"va/l"),) and not found.headers


def test_nothing_is_done_without_all_of_its_credentials_or_where_nothing_is_to_be() -> None:
    assert opening(entry("a.example", Auth(AuthKind.BASIC, "KEY", "ELSE")), VALUES) is None
    assert opening(entry("a.example", Auth(AuthKind.PASSTHROUGH)), VALUES) is None


def test_the_nearest_service_is_a_hosts() -> None:
    wide, near, one = entry("*.example.com"), entry("*.a.example.com"), entry("b.a.example.com")
    off = entry("c.a.example.com", enabled=False)
    there = [wide, near, one, off]
    assert chosen(there, "b.a.example.com") is one and chosen(there, "c.a.example.com") is near
    assert chosen(there, "x.example.com") is wide and chosen(there, "y.x.example.com") is wide
    assert chosen(there, "example.com") is None and chosen(there, "badexample.com") is None
    assert chosen([entry("a.b"), entry("a.b")], "a.b") is not None


def test_a_host_knows_how_its_services_are_written() -> None:
    there = [entry(host) for host in ("a.b.c", "*.b.c", "*.c", "b.c", "*.a.b.c", "x.b.c", "*.x.c")]
    for host in ("a.b.c", "b.c", "x.a.b.c", "c", "y.x.c"):
        assert [one for one in there if one.host in written_for(host)] == [one for one in there if matches(one, host)]


def test_headers_name_few_credentials() -> None:
    with pytest.raises(Invalid, match="more than 16 times"):
        check_auth(Auth(AuthKind.CUSTOM, headers=(("A", "{{K}}" * 9), ("B", "{{K}}" * 8))))
    check_auth(Auth(AuthKind.CUSTOM, headers=(("A", "{{K}}" * 9), ("B", "{{K}}" * 7))))
    with pytest.raises(Invalid, match="there twice"):
        check_auth(Auth(AuthKind.CUSTOM, headers=(("X-A", "{{K}}"), ("x-a", "b"))))


def test_a_guest_is_told_names_alone() -> None:
    telegram = entry("api.telegram.org", Auth(AuthKind.URL_PATH, "BOT", placeholder="{bot}"))
    openai = entry("api.openai.com", Auth(AuthKind.BEARER, "OPENAI_KEY"))
    assert placeholders(["OPENAI_KEY", "BOT"], [telegram, openai]) == {
        "OPENAI_KEY": "OPENAI_KEY", "BOT": "{bot}", "OPENAI_API_KEY": "OPENAI_KEY", "TELEGRAM_BOT_TOKEN": "{bot}",
    }  # fmt: skip
    assert placeholders(["OTHER"], [openai]) == {"OTHER": "OTHER"}


def test_every_template_is_a_service() -> None:
    for template in TEMPLATES:
        check_auth(template.auth)
    assert len({template.id for template in TEMPLATES}) == len({template.host for template in TEMPLATES}) == 25
