"""From where a credential holds."""

from __future__ import annotations

import pytest

from polyvisor.model.faults import Invalid
from polyvisor.model.fence import NO_FENCE, fence, shown


@pytest.mark.parametrize(
    ("allow", "deny", "address", "lets"),
    [
        ("", "", "", True),
        ("", "", "no address", True),
        ("10.0.0.0/8", "", "10.1.2.3", True),
        ("10.0.0.0/8", "", "11.1.2.3", False),
        ("10.0.0.0/8", "", "", False),
        ("10.0.0.0/8", "", "::ffff:10.1.2.3", True),
        ("10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", True),
        ("10.1.0.0/16", "10.0.0.0/8", "10.2.2.3", False),
        ("", "10.0.0.1", "10.0.0.1", False),
        ("", "10.0.0.1", "10.0.0.2", True),
        ("", "10.0.0.1", "somewhere", False),
        ("", "10.0.0.1", "fe80::1%eth0", True),
        ("fe80::/10", "", "fe80::1%eth0", True),
        ("10.0.0.7/8", "", "10.9.9.9", True),
    ],
)
def test_allowed_goes_before_denied(allow: str, deny: str, address: str, lets: bool) -> None:
    assert fence(allow.split(), deny.split()).lets(address) is lets


@pytest.mark.parametrize(
    ("allow", "deny", "field"),
    [("x", "", "allow"), ("", "1.2.3", "deny"), ("10.0.0.0/8", "10.1.0.0/16", "deny"), ("::1", "::1", "deny")],
)
def test_what_is_no_fence_is_refused(allow: str, deny: str, field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        fence(allow.split(), deny.split())
    assert refusal.value.field == field


def test_it_has_a_size() -> None:
    with pytest.raises(Invalid):
        fence([f"10.0.{n}.0/24" for n in range(201)], ())


def test_it_is_shown_as_it_was_written() -> None:
    made = fence(["10.0.0.1", "10.0.0.0/8", "::1", "10.0.0.1"], ())
    assert [shown(net) for net in made.allow] == ["10.0.0.1", "10.0.0.0/8", "::1"]
    assert fence((), ()) == NO_FENCE
