"""Secrets that are sealed: who has the key, and knows what they are about, reads them; nobody else does."""

from __future__ import annotations

import base64

import pytest

from polyvisor.access.seal import Seal, new_key
from polyvisor.model.faults import Internal


def test_what_is_sealed_is_revealed_for_what_it_is_about() -> None:
    seal = Seal(new_key())
    sealed = seal.seal("a sécret", "app.example.com")
    assert "cret" not in base64.b64decode(sealed).decode("latin-1")
    assert seal.seal("a sécret", "app.example.com") != sealed
    assert seal.reveal(sealed, "app.example.com") == "a sécret"
    assert seal.key not in repr(seal)


@pytest.mark.parametrize("broken", ["", "x", "AAAA", "é"])
def test_what_is_broken_is_not_revealed(broken: str) -> None:
    with pytest.raises(Internal):
        Seal(new_key()).reveal(broken, "a")


def test_another_key_or_another_thing_reveals_nothing() -> None:
    seal = Seal(new_key())
    sealed = seal.seal("secret", "a")
    for other, about in ((seal, "b"), (Seal(new_key()), "a")):
        with pytest.raises(Internal) as told:
            other.reveal(sealed, about)
        assert "secret" not in told.value.private
