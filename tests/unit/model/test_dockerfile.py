"""Which images a Dockerfile begins from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.model.dockerfile import bases_of

TEXTS = [
    ("FROM scratch\nCOPY x /", ()),
    ("FROM busybox", ("busybox",)),
    ("# syntax=docker/dockerfile:1\nfrom  --platform=linux/amd64   a:3  AS  Build\nFROM build\n", ("a:3",)),
    ("ARG V=3.19\nARG W\nFROM alpine:${V}\nFROM debian:${W:-12}\nFROM x:$V\n", ("alpine:3.19", "debian:12", "x:3.19")),
    ("ARG IMAGE\nFROM ${IMAGE}\n", ()),
    ("FROM a \\\n  AS one\nFROM b\nCOPY --from=one /x /\nCOPY --from=0 /x /\nCOPY --from=t:1 /x /", ("a", "b", "t:1")),
    ("FROM a\nARG V=1\nRUN echo FROM c\nFROM b:$V", ("a", "b:")),
    ("FROM a\nFROM a\n", ("a",)),
    ("", ()),
    ("FROM", ()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), TEXTS)
def test_its_bases(text: str, found: tuple[str, ...]) -> None:
    assert bases_of(text) == found


@given(st.lists(st.sampled_from(["FROM ", "ARG ", "$", "${A}", "A=", "\\", "\n", "x:1", " AS y", "COPY --from=", "#"])))
def test_whatever_it_is_it_is_read(parts: list[str]) -> None:
    assert all(one and "\n" not in one for one in bases_of("".join(parts)))
