"""Who lends how much: nobody goes below the floor, and what is lent comes back without a flood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.model.faults import Invalid
from polyvisor.model.reclaim import DEFAULT_HOLD, MAX_HOLD, Policy, Wanted, check_wanted, next_lent, targets
from polyvisor.model.units import GIB, MIB, Bytes, Seconds

HALF = Policy()
SIZES = st.lists(st.integers(96, 8192).map(lambda n: Bytes(n * MIB)), max_size=20)


@given(SIZES, st.integers(0, 200 * GIB), st.integers(10, 100))
def test_together_they_lend_what_is_wanted_and_each_keeps_its_floor(
    sizes: list[Bytes], wanted: int, floor: int
) -> None:
    policy = Policy(floor=floor)
    aims = targets(sizes, wanted, policy)
    most = sum(size - policy.keeps(size) for size in sizes)
    lent = sum(sizes) - sum(aims)
    assert min(wanted, most) <= lent <= min(most, wanted + MIB * max(1, len(sizes)))
    assert all(policy.keeps(size) <= aim <= size for size, aim in zip(sizes, aims, strict=True))
    assert all((size - aim) % MIB == 0 for size, aim in zip(sizes, aims, strict=True))


def test_they_lend_in_proportion() -> None:
    sizes = [Bytes(GIB), Bytes(3 * GIB), Bytes(96 * MIB)]
    assert targets(sizes, 0, HALF) == sizes
    aims = targets(sizes, GIB, HALF)
    lent = [size - aim for size, aim in zip(sizes, aims, strict=True)]
    assert lent[1] == pytest.approx(3 * lent[0], abs=4 * MIB)
    assert targets(sizes, 10**15, HALF) == [512 * MIB, 1536 * MIB, 48 * MIB]
    assert targets(sizes, 10**15, Policy(floor=100)) == sizes
    assert HALF.keeps(Bytes(97 * MIB)) == 49 * MIB


def test_pressure_begins_below_and_is_over_above_and_in_between_nothing_changes() -> None:
    policy, most = Policy(Bytes(GIB)), 4 * GIB
    assert next_lent(0, 2 * GIB, most, policy) == 0
    assert next_lent(0, GIB, most, policy) == 0
    assert next_lent(0, GIB - MIB, most, policy) == GIB // 2 + MIB
    assert next_lent(100 * MIB, GIB + MIB, most, policy) == 100 * MIB
    assert next_lent(most, 0, most, policy) == most
    lent, steps = most, 0
    while lent:
        after = next_lent(lent, 2 * GIB, most, policy)
        assert after < lent
        assert lent - after <= max(lent // 4, 64 * MIB)
        lent, steps = after, steps + 1
    assert steps > 5
    assert next_lent(GIB, 0, 100 * MIB, policy) == 100 * MIB
    assert next_lent(GIB, 0, most, HALF) == 0


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (Wanted(Bytes(-1)), "bytes"),
        (Wanted(Bytes(1), Seconds(0.0)), "hold"),
        (Wanted(Bytes(1), Seconds(MAX_HOLD + 1)), "hold"),
        (Wanted(Bytes(1), DEFAULT_HOLD, reason="x" * 257), "reason"),
        (Wanted(Bytes(1), DEFAULT_HOLD, reason="\0"), "reason"),
    ],
)
def test_what_cannot_be_wanted_is_refused(wanted: Wanted, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_wanted(wanted)
    assert refused.value.field == field
