"""Records survive their way through text exactly."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyvisor.model.faults import Invalid
from polyvisor.model.ids import Digest
from polyvisor.model.image import Image, ImageConfig
from polyvisor.model.instance import Address, Ended, Intent, Observed, RunRecord
from polyvisor.model.spec import CloudInit, Firmware, Port, RestartPolicy, Shape, Spec
from polyvisor.model.units import Bytes
from polyvisor.store import codec

_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_WHOLE = st.integers(-(2**63), 2**63 - 1)
_WHEN = st.datetimes(timezones=st.just(UTC))
for _kind, _strategy in ((float, _FINITE), (int, _WHOLE), (datetime, _WHEN)):
    st.register_type_strategy(_kind, _strategy)


def whole(kind: type) -> st.SearchStrategy[object]:
    """Any value of the dataclass; every field is drawn, those with a default too."""
    return st.builds(kind, **{field.name: ... for field in fields(kind)})


for _part in (Port, CloudInit, RestartPolicy, RunRecord, Ended, ImageConfig):
    st.register_type_strategy(_part, whole(_part))


@settings(max_examples=150, deadline=None)
@given(st.one_of(whole(Spec), whole(Intent), whole(Observed), whole(Address), whole(Image)))
def test_a_record_comes_back_the_same(record: object) -> None:
    text = codec.Codec(type(record)).encode(record)
    again = codec.Codec(type(record)).decode(text)
    assert again == record


@given(st.dictionaries(st.text(), st.text()), st.lists(st.text()).map(tuple))
def test_plain_texts_come_back_the_same(texts: dict[str, str], words: tuple[str, ...]) -> None:
    assert codec.texts.decode(codec.texts.encode(texts)) == texts
    assert codec.words.decode(codec.words.encode(words)) == words


@given(_WHEN)
def test_a_moment_is_kept_to_the_microsecond(when: datetime) -> None:
    assert codec.moment(codec.micros(when)) == when


def test_no_moment_is_none() -> None:
    assert codec.micros_or_none(None) is None
    assert codec.moment_or_none(None) is None
    assert codec.moment_or_none(codec.micros_or_none(datetime(1970, 1, 1, tzinfo=UTC))) == codec.moment(0)


def a_spec(**given: object) -> Spec:
    """A small one."""
    return Spec(Digest("d"), "busybox", Shape.MICRO, Firmware.NONE, 1, Bytes(1), Bytes(1), **given)  # type: ignore[arg-type]  # by name


def test_an_older_record_gets_defaults_and_a_newer_one_loses_what_we_do_not_know() -> None:
    assert codec.intent.decode('{"generation":5,"colour":"red"}') == Intent(generation=5)


def test_half_a_surrogate_pair_is_invalid() -> None:
    with pytest.raises(Invalid):
        codec.spec.encode(a_spec(cwd="\ud800"))


def test_a_value_of_the_wrong_type_is_an_error_before_it_is_stored() -> None:
    with pytest.raises(ValueError, match="vcpus"):
        codec.spec.encode(replace(a_spec(), vcpus="x"))  # type: ignore[arg-type]  # that is the point


def test_equal_texts_share_a_value_unless_they_are_long() -> None:
    short, long = a_spec(), a_spec(cwd="/" + "x" * 100_000)
    for spec, shared in ((short, True), (long, False)):
        text = codec.spec.encode(spec)
        assert (codec.spec.decode(text) is codec.spec.decode(text)) is shared


def test_marks_tell_labels_apart_whatever_they_hold() -> None:
    assert len(codec.marks([("a", "b"), ("a", "b"), ("ab", ""), ("", "ab"), ("a", "\0"), ("a", "\ud800")])) == 5
    assert codec.marks([("a", "b"), ("c", "d")]) == codec.marks([("c", "d"), ("a", "b")])
    assert codec.micros(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1)) == 1_000_000
