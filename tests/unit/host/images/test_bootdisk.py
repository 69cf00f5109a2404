"""The four numbers that make a disk start, and the layout around them."""

from __future__ import annotations

import struct

import pytest

from polyvisor.host.images.bootdisk import ROOT_AT, Plan, boot_sector, core_image, partition_script
from polyvisor.model.faults import Internal
from polyvisor.model.units import GIB, MIB


def test_the_boot_sector_finds_the_core_and_leaves_the_partition_table_alone() -> None:
    code = boot_sector(bytes(512), 2048)
    assert len(code) == 440
    assert struct.unpack_from("<Q", code, 0x5C) == (2048,)
    assert code[0x64] == 0xFF
    assert code[0x66:0x68] == b"\x90\x90"


def test_the_core_finds_its_own_rest() -> None:
    core = core_image(bytes(500) + struct.pack("<QHH", 1, 99, 0x820), 2048)
    assert struct.unpack_from("<QHH", core, 500) == (2049, 99, 0x820)
    with pytest.raises(Internal):
        core_image(bytes(MIB + 1), 2048)


def test_partitions_do_not_overlap_and_root_is_last() -> None:
    plan = Plan(2 * GIB, "seed")
    script = partition_script(plan)
    assert f"1 : start={ROOT_AT // 512}, size={plan.root_size // 512}" in script
    assert ROOT_AT + plan.root_size < plan.size
    assert script == partition_script(Plan(2 * GIB, "seed"))
