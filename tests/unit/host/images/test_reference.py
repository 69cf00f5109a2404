"""How people name images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.model.faults import Invalid
from polyvisor.model.image import parse_reference

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("busybox", "busybox:latest"),
        ("debian-12", "debian-12:latest"),
        ("alpine:3", "alpine:3"),
        ("team/app", "team/app:latest"),
        ("registry.example/app:1.0", "registry.example/app:1.0"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/a/b_c--d:T", "localhost:5000/a/b_c--d:T"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"app@{DIGEST}", f"app@{DIGEST}"),
        (f"r.example/app:1@{DIGEST}", f"r.example/app:1@{DIGEST}"),
    ],
)
def test_references_are_normalised(text: str, whole: str) -> None:
    assert str(parse_reference(text)) == whole


def test_a_default_registry_completes_short_names_only() -> None:
    assert str(parse_reference("app", "r.example:5000/library")) == "r.example:5000/library/app:latest"
    assert str(parse_reference("team/app", "r.example/library")) == "r.example/team/app:latest"
    assert str(parse_reference("q.example/app", "r.example/library")) == "q.example/app:latest"


@pytest.mark.parametrize(
    "text",
    [
        "", "A", "a" * 600, "a:", "a:-x", "a:b:c", "a@sha256:0", "a@md5:0", "/a", "a/", "a//b", "a..b", "../a",
        "a/../b", "-a.example/b", "exa mple/b", "docker://a", "a\n", "a;b", "a$(b)", "--flag", "r.example:/a",
        ".example/a", "é",
    ],
)  # fmt: skip
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_reference(text, field="media")
    assert caught.value.field == "media"


@given(st.text(max_size=60))
def test_what_is_accepted_reads_back_as_itself(text: str) -> None:
    try:
        found = parse_reference(text)
    except Invalid:
        return
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("localhost:5000/a", True), ("127.0.0.1:5000/a", True), ("127.9.9.9/a", True), ("[::1]:5000/a", True),
        ("127.0.0.1.example/a", False), ("r.example/a", False), ("a", False), ("[::2]/a", False),
    ],
)  # fmt: skip
def test_only_this_machine_may_speak_plain_http(text: str, loopback: bool) -> None:
    assert parse_reference(text).loopback is loopback
