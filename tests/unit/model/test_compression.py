"""Compression as people write it."""

from __future__ import annotations

import pytest

from polyvisor.engine.packing import CompressionPolicy, snapshot_compression, standby_packing
from polyvisor.model.compression import Algorithm, Compression, Packing, check_delay, parse_compression
from polyvisor.model.faults import Invalid
from polyvisor.model.ids import Digest
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import GIB, MIB, Bytes, Seconds

ZSTD, LZ4, NONE = Compression(Algorithm.ZSTD, 1), Compression(Algorithm.LZ4, 0), Compression()
SPEC = Spec(Digest("sha256:" + "a" * 64), "it", Shape.MICRO, Firmware.NONE, 1, Bytes(96 * MIB), Bytes(GIB))


@pytest.mark.parametrize(
    ("text", "found"),
    [("none", NONE), ("zstd", ZSTD), ("zstd:19", Compression(Algorithm.ZSTD, 19)), ("lz4", LZ4), ("lz4:0", LZ4)],
)
def test_what_is_written_is_understood(text: str, found: Compression) -> None:
    assert parse_compression(text) == found
    assert parse_compression(str(found)) == found
    assert bool(found) == (text != "none")


@pytest.mark.parametrize("text", ["", "gzip", "zstd:0", "zstd:20", "lz4:10", "none:0", "zstd:-1", "ZSTD", "zstd:1 "])
def test_what_is_none_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_compression(text, "memory.compression")
    assert refused.value.field == "memory.compression"


@pytest.mark.parametrize("delay", [-1.0, 8 * 86400.0])
def test_a_delay_has_bounds(delay: float) -> None:
    with pytest.raises(Invalid) as refused:
        check_delay(Seconds(delay))
    assert refused.value.field == "compression_delay"


def test_the_nearest_word_counts() -> None:
    usual, policy = Packing(LZ4, Seconds(9.0)), CompressionPolicy(ZSTD, Seconds(5.0)).apply(SPEC)
    assert standby_packing(None, None, SPEC, usual) == usual
    assert standby_packing(None, None, policy, usual) == Packing(ZSTD, Seconds(5.0))
    assert standby_packing(NONE, None, policy, usual) == Packing(NONE, Seconds(5.0))
    assert standby_packing(None, Seconds(0.0), policy, usual) == Packing(ZSTD, Seconds(0.0))
    assert [snapshot_compression(c, policy, usual) for c in (None, LZ4, NONE)] == [ZSTD, LZ4, NONE]


def test_a_policy_changes_only_what_it_names() -> None:
    policy = CompressionPolicy(ZSTD, Seconds(5.0)).apply(SPEC)
    assert CompressionPolicy(delay=Seconds(7.0), keep=True).apply(policy).compression == ZSTD
    reset = CompressionPolicy(None).apply(policy)
    assert (reset.compression, reset.compression_delay) == (None, Seconds(5.0))
